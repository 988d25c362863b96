"""Values and slopes of the three bounds on a loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax import losses

soft_clamp = jax.jit(losses.soft_clamp, static_argnames="scale")
asinh_compress = jax.jit(losses.asinh_compress, static_argnames="scale")
hard_clamp = jax.jit(losses.hard_clamp, static_argnames=("low", "high"))
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
FLOATS = st.floats(-HUGE, HUGE, width=32, allow_subnormal=False)
SCALES = st.floats(2.0**-10, 1e3, width=32)


def grid(dtype):
    limit = float(jnp.finfo(dtype).max)
    size = np.concatenate([np.geomspace(1e-30, 1e-3, 9), np.geomspace(1e-2, 3e38, 200)])
    size = np.clip(size, 0, limit)
    return np.asarray(np.concatenate([-size, [0.0], size]), dtype)


@functools.partial(jax.jit, static_argnums=0, static_argnames="scale")
def value_and_slope(function, x, **options):
    value, pull = jax.vjp(functools.partial(function, **options), x)
    return value, pull(jnp.ones_like(value))[0]


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e4])
def test_soft_clamp_and_its_slope_match_float64(dtype, scale, assert_ulps):
    x = grid(dtype)
    value, slope = value_and_slope(soft_clamp, x, scale=scale)
    exact = np.asarray(x, np.float64) / scale
    ulps = 32 if dtype == jnp.float32 else 2
    assert_ulps(value, scale * np.tanh(exact), ulps)
    near = np.abs(exact) < 20
    decay = np.exp(-2 * np.abs(exact))
    sharp = np.where(near, 4 * decay / (1 + decay) ** 2, 0.0)
    # exp turns a relative error of its argument into an absolute one: 40 of them.
    assert_ulps(np.where(near, slope, np.zeros((), dtype)), sharp, 3 * ulps)


@pytest.mark.optimized
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-3, 1.0, 10.0, 1e4])
def test_asinh_compress_and_its_slope_match_float64(dtype, scale, assert_ulps):
    x = grid(dtype)
    value, slope = value_and_slope(asinh_compress, x, scale=scale)
    exact = np.asarray(x, np.float64) / scale
    ulps = 32 if dtype == jnp.float32 else 2
    assert_ulps(value, scale * np.arcsinh(exact), ulps)
    assert_ulps(slope, 1 / np.hypot(1.0, exact), ulps)


@given(FLOATS, FLOATS, SCALES)
def test_smooth_bounds_are_odd_ordered_and_never_larger_than_the_input(x, y, scale):
    pair = jnp.array(sorted([x, y]), jnp.float32)
    # The scale differs each time, so these are not compiled as a whole.
    for bound in (losses.soft_clamp, losses.asinh_compress):
        low, high = np.asarray(bound(pair, scale=scale), np.float64)
        assert low <= high
        assert np.all(
            np.abs([low, high]) <= np.abs(np.float64(pair)) * (1 + 2e-6) + 1e-37
        )
        np.testing.assert_array_equal(bound(-pair, scale=scale), [-low, -high])


@given(st.floats(-20.0, 20.0, width=32), SCALES)
def test_the_soft_slope_lives_where_tanh_has_rounded_to_one(ratio, scale):
    x = jnp.float32(ratio * scale)
    gradient = float(jax.grad(losses.soft_clamp)(x, scale=scale))
    assert 0.0 < gradient <= 1.0


def test_infinities_become_the_bound_of_the_soft_clamp():
    ends = jnp.array([jnp.inf, -jnp.inf])
    for dtype in DTYPES:
        bounded = soft_clamp(np.asarray(ends, dtype), scale=8.0)
        assert bounded.tolist() == [8.0, -8.0]


def test_asinh_compress_is_finite_and_sloped_at_the_largest_number():
    value, gradient = value_and_slope(asinh_compress, np.float32(HUGE), scale=1e3)
    np.testing.assert_allclose(value, 1e3 * np.arcsinh(HUGE / 1e3), rtol=1e-6)
    np.testing.assert_allclose(gradient, 1e3 / HUGE, rtol=1e-6)


def test_hard_clamp_counts_every_entry_that_it_changes():
    x = jnp.array([-jnp.inf, -6.0, -5.0, 0.0, 5.0, 6.0, jnp.inf, jnp.nan])
    value, hits = hard_clamp(x, low=-5.0, high=5.0)
    np.testing.assert_array_equal(value, [-5, -5, -5, 0, 5, 5, 5, np.nan])
    assert int(hits) == 4
    assert hits.dtype == jnp.int32


def test_hard_clamp_has_slope_one_on_its_limits_and_zero_outside():
    x = jnp.array([-6.0, -5.0, 0.0, 5.0, 6.0])
    _, gradient = value_and_slope(lambda v: hard_clamp(v, low=-5.0, high=5.0)[0], x)
    assert gradient.tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_clamped_loss_of_1000_no_longer_trains_but_a_smooth_one_does():
    loss = lambda theta: 1000.0 + 3.0 * theta
    hard = lambda t: hard_clamp(loss(t), low=-10.0, high=10.0)[0]
    smooth = lambda t: asinh_compress(loss(t), scale=10.0)
    zero = np.float32(0.0)
    assert float(value_and_slope(hard, zero)[1]) == 0.0
    np.testing.assert_allclose(value_and_slope(smooth, zero)[1], 0.03, rtol=1e-3)


@pytest.mark.parametrize("bound", [soft_clamp, asinh_compress])
@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_that_is_no_size_is_refused(bound, scale):
    with pytest.raises(ValueError, match=f"{bound.__name__}: scale must be in"):
        bound(jnp.ones(2), scale=scale)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (2.0, 1.0), (np.nan, 1.0)])
def test_limits_in_the_wrong_order_are_refused(low, high):
    with pytest.raises(ValueError, match="hard_clamp: low must be < high"):
        hard_clamp(jnp.ones(2), low=low, high=high)
