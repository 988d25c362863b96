"""Bounds on updates, and repairs that are counted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.transforms import clip_update_by_rms, repair_nonfinite


def rms(x):
    return np.sqrt(np.mean(np.square(np.abs(np.asarray(x, np.complex128)))))


@functools.cache
def compiled(transform):
    return jax.jit(lambda u: transform.update(u, transform.init(u)))


def apply(transform, updates):
    return compiled(transform)(updates)


HALF = clip_update_by_rms(0.5)


@given(st.integers(0, 99), st.floats(-6, 30).map(lambda p: 10.0**p))
def test_no_tensor_of_an_update_exceeds_the_bound(seed, scale):
    rng = np.random.default_rng(seed)
    update = jnp.asarray(scale * rng.normal(size=(4, 3)), jnp.float32)
    clipped, state = apply(HALF, update)
    factor = min(1.0, 0.5 / rms(update))
    np.testing.assert_allclose(clipped, np.float64(update) * factor, rtol=2e-6)
    np.testing.assert_allclose(state.largest_ratio, rms(update) / 0.5, rtol=2e-6)
    assert state.clips == int(factor < 1)


def test_each_tensor_is_bounded_by_itself_and_counted():
    clip = clip_update_by_rms(1.0)
    update = {"a": jnp.full((4,), 8.0), "b": jnp.full((2, 2), 0.5), "c": jnp.ones(())}
    clipped, state = apply(clip, update)
    assert [float(x.max()) for x in clipped.values()] == [1.0, 0.5, 1.0]
    assert (state.clips, state.tensors, state.largest_ratio) == (1, 1, 8.0)
    _, state = clip.update({"a": jnp.ones(4)}, state)
    assert (state.clips, state.tensors, state.largest_ratio) == (1, 0, 1.0)


def test_adam_behind_a_growing_gradient_is_bounded():
    bounded = optax.chain(optax.scale_by_adam(b2=0.9999), clip_update_by_rms(1.0))
    state = bounded.init(jnp.ones(3))
    step = jax.jit(bounded.update)
    for gradient in [1e-2] * 20 + [1.0] * 20:
        update, state = step(jnp.full((3,), gradient), state)
        assert rms(update) <= 1.0 + 1e-6
    assert state[1].largest_ratio > 1.2
    assert state[1].clips > 10


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_mean_square_is_taken_in_float32(dtype):
    clipped, _ = apply(clip_update_by_rms(1.0), jnp.full((64,), 3e4, dtype))
    assert clipped.dtype == dtype
    np.testing.assert_allclose(np.asarray(clipped, np.float32), 1.0, rtol=1e-2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_tensor_that_is_not_finite_stays_as_it_is(value):
    update = {"a": jnp.asarray([value, 8.0]), "b": jnp.full((2,), 8.0)}
    clipped, state = apply(clip_update_by_rms(1.0), update)
    np.testing.assert_array_equal(clipped["a"], update["a"])
    np.testing.assert_allclose(clipped["b"], 1.0, rtol=1e-6)
    np.testing.assert_allclose(state.largest_ratio, 8.0, rtol=1e-6)


def test_the_bound_must_be_positive():
    with pytest.raises(ValueError, match=r"max_rms must be in \(0, inf\), got 0"):
        clip_update_by_rms(0.0)


def test_what_is_not_finite_becomes_zero_and_is_counted():
    repair = repair_nonfinite()
    bad = {"a": jnp.asarray([1.0, np.nan, np.inf]), "b": jnp.asarray(-np.inf)}
    repaired, state = apply(repair, bad)
    assert repaired["a"].tolist() == [1.0, 0.0, 0.0]
    assert repaired["b"] == 0.0
    assert (state.elements, state.total, state.steps) == (3, 3, 1)
    _, state = jax.jit(repair.update)({"a": jnp.ones(3), "b": jnp.ones(())}, state)
    assert (state.elements, state.total, state.steps) == (0, 3, 1)
    _, state = jax.jit(repair.update)(bad, state)
    assert (state.elements, state.total, state.steps) == (3, 6, 2)


def test_optax_lets_infinity_pass():
    bad = jnp.asarray([np.inf, np.nan])
    theirs, _ = apply(optax.zero_nans(), bad)
    ours, _ = apply(repair_nonfinite(), bad)
    assert theirs.tolist() == [np.inf, 0.0]
    assert ours.tolist() == [0.0, 0.0]


def test_the_total_saturates_instead_of_wrapping_around():
    repair = repair_nonfinite()
    most = jnp.iinfo(jnp.int32).max
    state = repair.init(())._replace(total=jnp.int32(most - 1))
    _, state = repair.update(jnp.full((4,), np.nan), state)
    assert state.total == most


@pytest.mark.parametrize("transform", [clip_update_by_rms(1.0), repair_nonfinite()])
def test_complex_integer_and_empty_leaves_keep_dtype_and_shape(transform):
    tree = {"z": jnp.asarray([3 + 4j]), "i": jnp.asarray([7]), "e": jnp.zeros((0,))}
    out, _ = apply(transform, tree | {"n": None})
    assert {k: (x.dtype, x.shape) for k, x in out.items() if k != "n"} == {
        k: (x.dtype, x.shape) for k, x in tree.items()
    }
    assert out["i"].tolist() == [7]
