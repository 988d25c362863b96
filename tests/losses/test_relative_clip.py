"""Clipping relative to the old value, through zero and both signs."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stabjax import losses

relative_clip = jax.jit(losses.relative_clip, static_argnames=("ratio", "floor"))
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
FLOATS = st.floats(-HUGE, HUGE, width=32, allow_subnormal=False)


def oracle(new, old, ratio, floor):
    new, old = np.asarray(new, np.float64), np.asarray(old, np.float64)
    limit = ratio * np.maximum(np.abs(old), floor)
    return np.clip(new, old - limit, old + limit)


@pytest.mark.optimized
@given(FLOATS, FLOATS, st.sampled_from([0.125, 0.2, 1.0, 3.0]))
# Three times the old value overflows, and yet the lower end is a number.
@example(-2.2685536e38, 1.1342746e38, 3.0)
def test_it_is_the_clip_around_the_old_value_at_every_size_and_sign(new, old, ratio):
    value, _ = relative_clip(np.float32(new), np.float32(old), ratio=ratio)
    assert np.isfinite(value)
    exact = oracle(np.float32(new), np.float32(old), ratio, 1e-2)
    # The ends are rounded at the size of the old value.
    room = 4 * np.finfo(np.float32).eps * (1.0 + ratio) * max(abs(old), 1e-2)
    np.testing.assert_allclose(value, exact, rtol=1e-6, atol=room)


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_computed_in_float32(dtype, assert_ulps):
    rng = np.random.default_rng(0)
    new, old = jnp.asarray(rng.normal(0, 3, (2, 200)), dtype)
    value, hits = relative_clip(new, old, ratio=0.2)
    exact = oracle(new, old, 0.2, 1e-2)
    scale = np.maximum(np.abs(exact), np.abs(np.asarray(old, np.float64)))
    assert_ulps(value, exact, 2, scale=scale)
    assert value.dtype == dtype
    assert int(hits) == np.sum(exact != np.asarray(new, np.float64))


def test_a_value_leaves_zero_and_changes_its_sign():
    value = np.float32(0.0)
    for _ in range(4):
        value, _ = relative_clip(np.float32(-5.0), value, ratio=0.5, floor=1.0)
    np.testing.assert_allclose(value, -2.25, rtol=1e-6)
    down, _ = relative_clip(np.float32(-5.0), np.float32(0.1), ratio=0.5, floor=1.0)
    np.testing.assert_allclose(down, -0.4, rtol=1e-6)


def test_the_seeds_form_stays_at_zero_for_ever():
    old_size = np.abs(0.0) + 1e-8
    clipped = 0.0 + np.clip((5.0 - 0.0) / old_size, -0.2, 0.2) * old_size
    assert clipped <= 2.1e-9
    ours, _ = relative_clip(np.float32(5.0), np.float32(0.0), ratio=0.2)
    np.testing.assert_allclose(ours, 2e-3, rtol=1e-6)


def test_inside_the_limits_the_value_is_the_same_bits():
    new, old = np.float32([0.1, 3.3333]), np.float32([0.11, 3.0])
    value, hits = relative_clip(new, old, ratio=0.2)
    np.testing.assert_array_equal(value, new)
    assert int(hits) == 0


def test_the_gradient_is_one_inside_and_on_the_limits_and_zero_outside():
    old = np.full(5, 4.0, np.float32)
    new = np.float32([1.0, 2.0, 4.0, 6.0, 7.0])
    total = lambda new, old: jnp.sum(relative_clip(new, old, ratio=0.5)[0])
    by_new, by_old = jax.jit(jax.grad(total, argnums=(0, 1)))(new, old)
    assert by_new.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert by_old.tolist() == [0.0] * 5


def test_nan_and_an_infinite_old_value_are_loud_and_no_hit():
    nan, inf = np.nan, np.inf
    new = np.float32([nan, 1.0, 1.0, 1.0, inf])
    old = np.float32([1.0, nan, inf, -inf, 1.0])
    value, hits = relative_clip(new, old, ratio=0.5)
    np.testing.assert_array_equal(value, [nan, nan, nan, nan, 1.5])
    assert int(hits) == 1
    assert hits.dtype == jnp.int32


def test_the_hits_are_counted_per_row_under_vmap():
    new, old = np.float32([[1.0, 9.0], [9.0, 9.0]]), np.ones((2, 2), np.float32)
    clip = jax.vmap(functools.partial(relative_clip, ratio=0.5))
    assert clip(new, old)[1].tolist() == [1, 2]


@pytest.mark.parametrize("name", ["ratio", "floor"])
@pytest.mark.parametrize("value", [0.0, -0.2, np.nan, np.inf])
def test_options_that_are_no_size_are_refused(name, value):
    options = {"ratio": 0.2} | {name: value}
    with pytest.raises(ValueError, match=f"relative_clip: {name} must be in"):
        relative_clip(jnp.ones(2), jnp.ones(2), **options)


def test_one_old_value_for_all_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(AssertionError, match="shape"):
        relative_clip(jnp.ones(2), jnp.ones(1), ratio=0.2)
