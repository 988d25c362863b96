"""Parameter trees of every kind: empty, scalar, complex, with None, with many leaves.

XLA on CPU copies a cheap scalar into every kernel that reads it, with all that it is
computed from. Where that is a sum over all leaves, the program grows with the square
of their number.
"""

import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, bits

from stabjax.core.sums import sums_in_both_units
from stabjax.guards import clip_by_global_norm
from stabjax.train_step import make_train_step
from stabjax.transforms import guard


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array


def ones(*shape, dtype=jnp.float32):
    return jnp.asarray(np.ones(shape), dtype)


TREES = {
    "empty": lambda: {},
    "a bare scalar": lambda: ones(),
    "no elements": lambda: {"none at all": ones(0, 3), "w": ones(2)},
    "only no elements": lambda: [ones(0)],
    "complex": lambda: {"z": ones(2, dtype=jnp.complex64) * (1 + 2j), "x": ones(2)},
    "None": lambda: {"absent": None, "w": ones(2)},
    "nested": lambda: (Pair(ones(2), ones()), [ones(1, 2), ({"w": ones(3)},)]),
}


def loss_fn(params, batch, key):
    del key
    leaves = jax.tree.leaves(params)
    sizes = [jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in leaves]
    return sum(sizes, jnp.float32(1)) * batch, {}


@pytest.mark.parametrize("form", ["branch", "select"])
@pytest.mark.parametrize("name", TREES)
def test_it_trains_and_refuses(name, form):
    guards = [clip_by_global_norm(max_norm=100.0)]
    train = make_train_step(loss_fn, optax.sgd(0.1), guards=guards, form=form)
    params = TREES[name]()
    state = train.init(params, np.float32(1))
    state, _ = train.step(state, np.float32(1), KEY)
    before = bits(state.params)
    moved = [np.any(a != b) for a, b in both_leaves(state.params, params) if a.size]
    assert all(moved)
    state, _ = train.step(state, np.float32(np.nan), KEY)
    assert bits(state.params) == before
    assert jax.tree.structure(state.params) == jax.tree.structure(params)
    core = train.guard_states(state)
    assert (core.applied, core.refused) == (1, 1)


def both_leaves(first, second):
    return zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)


def test_half_of_a_complex_element_is_enough_to_refuse():
    optimizer = guard(optax.sgd(0.1))
    params = TREES["complex"]()
    for broken in (complex(np.nan, 0), complex(0, np.inf)):
        gradient = params | {"z": jnp.asarray([1, broken], jnp.complex64)}
        updates, state = optimizer.update(gradient, optimizer.init(params), params)
        assert state.core.refused == 1
        assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))


def test_integer_leaves_stay_out_of_the_norm_and_keep_their_dtype():
    train = make_train_step(loss_fn, optax.sgd(0.1))
    tree = {"count": jnp.asarray([3], jnp.int32), "w": ones(2)}
    state = train.init(tree, np.float32(1))
    gradient = {"count": jnp.zeros((1,), jnp.int32), "w": ones(2) * 3}
    step = jax.jit(train.apply_gradients)
    state, _ = step(state, jnp.float32(1), {}, gradient)
    assert train.guard_states(state).applied == 1
    assert state.params["count"].dtype == jnp.int32
    assert state.params["count"].tolist() == [3]
    np.testing.assert_allclose(state.params["w"], 0.7, rtol=1e-6)


def many(leaves, size=3):
    """Return that many small leaves, each of one number."""
    return {
        f"l{i:04d}": np.full((size,), i / leaves, np.float32) for i in range(leaves)
    }


def test_two_thousand_leaves_are_measured_as_numpy_does():
    tree = many(2000)
    measure = jax.jit(lambda t: sums_in_both_units(t, spread=False))
    plain, _, nonfinite = measure(tree)
    assert not np.any(nonfinite)
    exact = 3 * np.square(np.arange(2000) / 2000)
    np.testing.assert_allclose(plain, exact, rtol=1e-6)
    tree["l1234"] = tree["l1234"] * np.float32(np.nan)
    plain, small, nonfinite = measure(tree)
    assert np.flatnonzero(~np.isfinite(plain)).tolist() == [1234]
    assert np.flatnonzero(~np.isfinite(small)).tolist() == [1234]
    assert nonfinite[1234] == 3


def lowered(kind, leaves):
    """Return a step over that many leaves, traced and lowered."""
    tree, guards = many(leaves), [clip_by_global_norm(max_norm=1.0)]
    if kind == "guard":
        optimizer = guard(optax.sgd(0.1), *guards)
        step = lambda g, s, p: optimizer.update(g, s, p, value=jnp.float32(1))
        return jax.jit(step).lower(tree, optimizer.init(tree), tree)
    train = make_train_step(loss_fn, optax.sgd(0.1), guards=guards, form=kind)
    state = train.init(tree, np.float32(1))
    return train.step.lower(state, np.float32(1), KEY)


@pytest.mark.optimized
@pytest.mark.parametrize("kind", ["guard", "branch", "select"])
def test_the_program_grows_with_the_leaves_and_not_with_their_square(kind):
    small, large = (len(lowered(kind, n).compile().as_text()) for n in (32, 96))
    assert large < 3.5 * small


@pytest.mark.slow
def test_two_thousand_leaves_compile_in_minutes_and_train():
    start = time.process_time()
    program = lowered("branch", 2000)
    traced = time.process_time()
    step = program.compile()
    compiled = time.process_time()
    print(
        f"2,000 leaves: traced in {traced - start:.0f} s, "
        f"compiled in {compiled - traced:.0f} s"
    )
    guards = [clip_by_global_norm(max_norm=1.0)]
    train = make_train_step(loss_fn, optax.sgd(0.1), guards=guards, form="branch")
    state, _ = step(train.init(many(2000), np.float32(1)), np.float32(1), KEY)
    before = bits(state.params)
    state, _ = step(state, np.float32(np.nan), KEY)
    assert bits(state.params) == before
    assert train.guard_states(state).applied == 1
    assert compiled - start < 600
