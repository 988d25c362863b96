"""Stablemax and its cross-entropy over every finite logit, against float64."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import (
    log_stablemax,
    stablemax,
    stablemax_cross_entropy,
    stablemax_cross_entropy_per_example,
)

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
EPS = np.finfo(np.float32).eps
HUGE = float(np.finfo(np.float32).max)
ROWS, CLASSES = 4, 5
ANY = st.floats(-HUGE, HUGE, width=32, allow_subnormal=False)
COMMON = st.one_of(st.sampled_from([0.0, 1.0, -1.0]), st.floats(-100, 100, width=32))
LOGITS = hnp.arrays(np.float32, (ROWS, CLASSES), elements=st.one_of(ANY, COMMON))
LABELS = hnp.arrays(np.int32, ROWS, elements=st.integers(0, CLASSES - 1))
LEARN = jax.jit(jax.value_and_grad(stablemax_cross_entropy))


def oracle(logits, labels):
    """Return losses and gradients in float64, from s itself and not its logarithm."""
    x = np.asarray(logits, np.float64)
    s = np.where(x < 0, 1 / (1 - np.minimum(x, 0)), np.maximum(x, 0) + 1)
    hot = np.eye(x.shape[1], dtype=bool)[labels]
    others = np.where(hot, 0.0, s / s[hot][:, None]).sum(1)
    p = s / s.sum(1, keepdims=True)
    rest = np.where(hot, 0.0, p).sum(1, keepdims=True)
    return np.log1p(others), np.where(hot, -rest, p) / (1 + np.abs(x))


def rounding(logits):
    """Return the relative error of exp(symlog) of the largest logit in float32."""
    size = np.log1p(np.abs(np.asarray(logits, np.float64))).max()
    return 8 * EPS * (1 + size)


@pytest.mark.optimized
@given(LOGITS, LABELS)
def test_losses_and_gradients_match_float64_at_every_finite_logit(logits, labels):
    value, pull = PULL(logits, labels)
    losses, gradient = oracle(logits, labels)
    # Each class may be flushed to zero before they are added.
    room = {"rtol": rounding(logits), "atol": CLASSES * 1.2e-38}
    np.testing.assert_allclose(value, losses, **room)
    np.testing.assert_allclose(pull, gradient, **room)


@jax.jit
def PULL(logits, labels):
    value, pull = jax.vjp(
        lambda x: stablemax_cross_entropy_per_example(x, labels), logits
    )
    return value, pull(jnp.ones(ROWS))[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_logits_are_computed_in_float32(dtype, assert_ulps):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 30, (64, 10)), dtype)
    labels = jnp.asarray(rng.integers(0, 10, 64), jnp.int32)
    loss, gradient = LEARN(logits, labels)
    losses, slopes = oracle(logits, labels)
    assert loss.dtype == jnp.float32
    assert_ulps(loss, losses.mean(), 32)
    ulps = 64 if dtype == jnp.float32 else 2
    assert_ulps(gradient, slopes / 64, ulps)


def naive(logits, labels):
    """Return the form in circulation: one select over both branches."""
    s = jnp.where(logits < 0, 1 / (1 - logits + 1e-30), logits + 1)
    p = s / jnp.sum(s, axis=-1, keepdims=True)
    return -jnp.mean(jnp.log(p)[jnp.arange(labels.size), labels])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_logit_of_exactly_one_has_a_gradient(dtype):
    logits, labels = jnp.asarray([[1.0, 0.0, -2.0]], dtype), jnp.array([1])
    assert np.any(np.isnan(np.asarray(jax.grad(naive)(logits, labels), np.float32)))
    gradient = np.asarray(LEARN(logits, labels)[1], np.float64)
    rtol = 1e-6 if dtype == jnp.float32 else 2.0**-8
    np.testing.assert_allclose(gradient, oracle(logits, labels)[1], rtol=rtol)


def test_no_bfloat16_logit_at_all_has_a_nan_gradient():
    bits = np.arange(2**16, dtype=np.uint16)
    every = jax.lax.bitcast_convert_type(jnp.asarray(bits), jnp.bfloat16)
    every = every[jnp.isfinite(every)]
    logits = jnp.stack([every, jnp.ones_like(every), -every], axis=-1)
    for label in range(3):
        labels = jnp.full(every.shape, label, jnp.int32)
        loss, gradient = LEARN(logits, labels)
        assert bool(jnp.isfinite(loss))
        assert bool(jnp.all(jnp.isfinite(gradient)))


def test_a_head_of_zeros_starts_with_the_full_gradient():
    gradient = LEARN(jnp.zeros((1, 4)), jnp.array([2]))[1]
    np.testing.assert_allclose(gradient, [[0.25, 0.25, -0.75, 0.25]], rtol=1e-6)


def test_a_sure_error_costs_the_logarithm_of_the_logits_and_still_pulls():
    logits = jnp.full((1, 10), -90.0).at[0, 0].set(80.0)
    loss, gradient = LEARN(logits, jnp.array([1]))
    # Nine wrong classes weigh 9 / 91 against the 81 of the first.
    np.testing.assert_allclose(loss, np.log(81 * 91 + 9), rtol=1e-6)
    np.testing.assert_allclose(gradient[0, 0], 1 / 81, rtol=2e-3)


@given(LOGITS)
def test_probabilities_sum_to_one_and_are_in_the_order_of_the_logits(logits):
    p = np.asarray(PROBABILITIES(logits), np.float64)
    np.testing.assert_allclose(p.sum(1), 1.0, rtol=1e-5)
    order = np.argsort(logits, axis=1)
    assert np.all(np.diff(np.take_along_axis(p, order, 1), axis=1) >= 0.0)


@pytest.mark.optimized
@given(LOGITS)
def test_probabilities_and_their_logarithm_match_float64(logits):
    x = np.float64(logits)
    log_s = np.sign(x) * np.log1p(np.abs(x))
    top = log_s.max(1, keepdims=True)
    exact = log_s - top - np.log(np.exp(log_s - top).sum(1, keepdims=True))
    room = rounding(logits)
    np.testing.assert_allclose(LOGARITHMS(logits), exact, rtol=1e-6, atol=room)
    p = PROBABILITIES(logits)
    np.testing.assert_allclose(p, np.exp(exact), rtol=room, atol=1.2e-38)


PROBABILITIES, LOGARITHMS = jax.jit(stablemax), jax.jit(log_stablemax)


def test_the_gradient_of_a_log_probability_is_its_formula():
    logits = np.array([1.0, 0.0, -3.0, 40.0], np.float32)
    rows = jax.jit(jax.jacobian(log_stablemax))(logits)
    s = np.where(logits < 0, 1 / (1 - np.minimum(logits, 0)), logits + 1.0)
    exact = (np.eye(4) - s / s.sum()) / (1 + np.abs(logits))
    np.testing.assert_allclose(rows, exact, rtol=1e-5, atol=1e-8)


def test_a_sure_log_probability_keeps_its_tail():
    log_p = log_stablemax(jnp.array([1e30, -1e6]))
    np.testing.assert_allclose(log_p[0], -1e-36, rtol=1e-4)


def test_an_impossible_class_has_no_part():
    logits = jnp.array([[1.0, -jnp.inf, 0.0]])
    np.testing.assert_allclose(stablemax(logits), [[2 / 3, 0.0, 1 / 3]], rtol=1e-6)
    loss, gradient = LEARN(logits, jnp.array([0]))
    np.testing.assert_allclose(loss, np.log(1.5), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-1 / 6, 0.0, 1 / 3]], rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_masked_position_is_inert_whatever_it_holds(poison, label):
    logits = jnp.array([[1.0, 2.0], [poison, 0.0], [0.5, 0.0]])
    labels, mask = jnp.array([0, label, 1]), jnp.array([True, False, True])
    both = LEARN(logits, labels, mask=mask)
    kept = LEARN(logits[::2], labels[::2])
    np.testing.assert_allclose(both[0], kept[0], rtol=1e-7)
    np.testing.assert_allclose(both[1], np.insert(kept[1], 1, 0.0, axis=0), rtol=1e-6)


def test_nan_and_a_label_out_of_range_are_loud_only_in_their_row():
    logits = jnp.array([[jnp.nan, 1.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    labels = jnp.array([0, 7, -1, 0])
    losses = stablemax_cross_entropy_per_example(logits, labels)
    assert np.isnan(np.asarray(losses)).tolist() == [True, True, False, False]
    assert float(losses[2]) == 0.0


def test_labels_that_would_broadcast_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(AssertionError, match="shape"):
        stablemax_cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32))
