"""A finite loss without a finite gradient: refused, told, and cured by the safe form.

Each case is a loss of a user as it is written at first, and the same with one name
changed for the one that the advice on its alert gives.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, bits, rows_of

from stabjax import numerics
from stabjax.health import Alert, explain, names_of
from stabjax.train_step import make_train_step

STEPS = 8


class Case(NamedTuple):
    """``loss(form, params)`` with the plain and the safe form, and where it breaks."""

    form: str
    plain: Callable[..., Any]
    loss: Callable[[Callable[..., Any], Any], jax.Array]
    params: dict[str, jax.Array]
    bad_leaf: str


def by_svd(svd, params):
    """Return the sum of a spectral function of a weight that starts as the identity."""
    left, values, right = svd(params["w"])
    return jnp.sum(left @ jnp.diag(jnp.tanh(values)) @ right)


def by_eigh(eigh, params):
    """Return the distance of a covariance to a target, by its matrix logarithm."""
    values, vectors = eigh(params["w"])
    target = jnp.diag(jnp.array([0.5, 0.0, -0.5]))
    return jnp.sum((vectors @ jnp.diag(jnp.log(values)) @ vectors.T - target) ** 2)


TOKENS = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 4)), jnp.float32)
# The last query of the second sequence has no key: it is padding.
MASK = jnp.ones((2, 3, 3), jnp.bool_).at[1, 2].set(False)


def plain_masked_softmax(scores, mask):
    """Return the softmax as it is written at first."""
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)


def by_attention(softmax, params):
    """Return the error of one head, whose padding is left out at the end."""
    scores = (TOKENS @ params["q"]) @ (TOKENS @ params["k"]).swapaxes(-1, -2)
    mixed = softmax(scores, MASK) @ (TOKENS @ params["v"])
    mixed = jnp.where(MASK.any(-1, keepdims=True), mixed, 0.0)
    return jnp.mean((mixed - TOKENS) ** 2)


DIRECTIONS = jnp.array([[1.0, 0.0], [0.6, 0.8]])


def by_arccos(arccos, params):
    """Return the mean angle to the targets; the first is met from the start."""
    predicted = numerics.safe_normalize(DIRECTIONS @ params["w"])
    return jnp.mean(arccos(jnp.sum(predicted * jnp.eye(2), axis=-1)))


def by_arcsin(arcsin, params):
    """Return the mean latitude of unit vectors, one of them at the pole."""
    return jnp.mean(arcsin(params["x"]))


def plain_normalize(x):
    """Return the unit vectors, guarded in their value alone."""
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-8)


def by_normalize(normalize, params):
    """Return how far embeddings are from their targets; the first starts at zero."""
    return jnp.mean((normalize(params["embedding"]) - jnp.eye(2)) ** 2)


def plain_sqrt(x):
    """Return the root behind a select, whose other branch still has its gradient."""
    return jnp.where(x > 0, jnp.sqrt(x), 0.0)


def by_sqrt(sqrt, params):
    """Return the sum of deviations, one of them zero."""
    return jnp.sum(sqrt(params["x"] ** 2))


def by_power(power, params):
    """Return a compressed error, zero in one place."""
    return jnp.sum(power(jnp.abs(params["x"]), exponent=0.3))


CASES = [
    Case(
        "safe_svd",
        lambda a: jnp.linalg.svd(a, full_matrices=False),
        by_svd,
        {"w": jnp.eye(3)},
        "w",
    ),
    Case("safe_eigh", jnp.linalg.eigh, by_eigh, {"w": jnp.eye(3)}, "w"),
    Case(
        "masked_softmax",
        plain_masked_softmax,
        by_attention,
        {name: 0.5 * jnp.eye(4) for name in "kqv"},
        "v",
    ),
    Case("safe_arccos", jnp.arccos, by_arccos, {"w": jnp.eye(2)}, "w"),
    Case("safe_arcsin", jnp.arcsin, by_arcsin, {"x": jnp.array([1.0, 0.3])}, "x"),
    Case(
        "safe_normalize",
        plain_normalize,
        by_normalize,
        {"embedding": jnp.array([[0.0, 0.0], [1.0, 0.5]])},
        "embedding",
    ),
    Case("safe_sqrt", plain_sqrt, by_sqrt, {"x": jnp.array([0.0, 2.0])}, "x"),
    Case(
        "safe_power",
        lambda x, exponent: x**exponent,
        by_power,
        {"x": jnp.array([0.0, 2.0])},
        "x",
    ),
]


def trained(case, form):
    """Return the train step, its state after some steps, and the rows of telemetry."""

    def loss(params, batch, key):
        del batch, key
        return case.loss(form, params), {}

    train = make_train_step(loss, optax.sgd(1e-2), window=STEPS)
    state = train.init(case.params, None)
    for _ in range(STEPS):
        state, _ = train.step(state, None, KEY)
    return train, state, rows_of(state)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.form)
def test_the_plain_form_is_refused_and_the_advice_names_the_cure(case):
    train, state, rows = trained(case, case.plain)
    assert bits(state.params) == bits(case.params)
    for row in rows:
        assert row["accepted"] == 0
        assert np.isfinite(row["loss"])
        assert names_of(row["alerts"]) == ("nonfinite_gradient",)
        assert train.schema(state).leaf(row) == case.bad_leaf
    advice = explain(Alert(rows[0]["alerts"])).suggestion
    assert case.form in advice


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.form)
def test_the_safe_form_has_the_same_loss_and_trains(case):
    safe = getattr(numerics, case.form)
    np.testing.assert_allclose(
        case.loss(safe, case.params), case.loss(case.plain, case.params), rtol=1e-6
    )
    _, state, rows = trained(case, safe)
    assert [row["accepted"] for row in rows] == [1] * STEPS
    assert all(names_of(row["alerts"]) == () for row in rows)
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1e-3
    for leaf in jax.tree.leaves(state.params):
        assert np.all(np.isfinite(leaf))
