"""Division, logarithm, root, power, reciprocals: values, slopes, nasty inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.numerics import (
    bounded_reciprocal,
    safe_divide,
    safe_log,
    safe_power,
    safe_sqrt,
    smooth_bounded_reciprocal,
)

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
FLOATS = st.floats(-HUGE, HUGE, width=32, allow_subnormal=False)
NASTY = [0.0, -0.0, 1e-30, -1e-30, 1.2e-38, -1.2e-38, 1.0, -1.0]
NASTY += [1e38, -1e38, HUGE, -HUGE]

FUNCTIONS = {
    "divide by": lambda x: safe_divide(jnp.full_like(x, 3.0), x, floor=1e-8),
    "divide huge by": lambda x: safe_divide(jnp.full_like(x, 6e4), x, floor=1e-38 * 2),
    "divide by itself": lambda x: safe_divide(x, x, floor=1e-8),
    "log": safe_log,
    "log with floor": functools.partial(safe_log, floor=1e-30),
    "sqrt": safe_sqrt,
    "power below one": functools.partial(safe_power, exponent=0.1),
    "power above one": functools.partial(safe_power, exponent=2.5),
    "reciprocal": functools.partial(bounded_reciprocal, scale=0.1, low=1e-4, high=10.0),
    "smooth reciprocal": functools.partial(
        smooth_bounded_reciprocal, scale=0.1, low=1e-4, high=10.0
    ),
}


def nasty(dtype):
    limit = float(jnp.finfo(dtype).max)
    return jnp.asarray(np.clip(NASTY, -limit, limit), dtype)


def slope(function, x):
    value, pull = jax.vjp(function, x)
    return pull(jnp.ones_like(value))[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_inputs_give_finite_values_and_slopes_of_their_dtype(name, dtype):
    function, x = jax.jit(FUNCTIONS[name]), nasty(dtype)
    value, gradient = function(x), jax.jit(functools.partial(slope, function))(x)
    assert value.dtype == gradient.dtype == dtype
    assert not value.weak_type
    assert bool(jnp.all(jnp.isfinite(value)))
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_stays_nan_and_stays_alone(name, dtype):
    value = FUNCTIONS[name](jnp.array([jnp.nan, 1.0], dtype))
    assert np.isnan(np.asarray(value, np.float32)).tolist() == [True, False]


@pytest.mark.parametrize("dtype", DTYPES)
def test_divide_matches_float64_from_tiny_to_huge(dtype, assert_ulps):
    limit = float(jnp.finfo(dtype).max)
    sizes = np.clip([1e-37, 1e-30, 7e-4, 3.0, 1e20, 1e38, HUGE], 0, limit)
    over, under = np.meshgrid(sizes, np.concatenate([sizes[1:], -sizes[1:]]))
    over, under = jnp.asarray(over, dtype), jnp.asarray(under, dtype)
    quotient = jax.jit(functools.partial(safe_divide, floor=1e-4))(over, under)
    d = np.asarray(under, np.float64)
    d = np.where(np.abs(d) < 1e-4, np.where(d < 0, -1e-4, 1e-4), d)
    exact = np.clip(np.asarray(over, np.float64) / d, -limit, limit)
    assert_ulps(quotient, exact, 4 if dtype == jnp.float32 else 2)


def test_dividing_by_the_scalar_1e38_is_not_flushed_to_zero():
    quotient = jax.jit(functools.partial(safe_divide, floor=1.0))
    assert float(quotient(jnp.full((4,), 1e38), jnp.array(1e38))[0]) == 1.0


def test_divide_keeps_infinity_and_saturates_overflow():
    over = jnp.array([jnp.inf, 3e38, 1.0], jnp.float32)
    quotient = safe_divide(over, jnp.array([1.0, 1e-3, jnp.inf]), floor=1e-8)
    np.testing.assert_array_equal(quotient, np.float32([np.inf, HUGE, 0.0]))


@given(FLOATS, FLOATS)
def test_divide_has_the_slopes_of_a_quotient_and_none_below_the_floor(n, d):
    slopes = jax.grad(functools.partial(safe_divide, floor=1e-3), argnums=(0, 1))
    by_n, by_d = slopes(jnp.float32(n), jnp.float32(d))
    held = d if abs(d) >= 1e-3 else (-1e-3 if d < 0 else 1e-3)
    expected = -n / held**2 if abs(d) >= 1e-3 else 0.0
    np.testing.assert_allclose(by_n, 1 / held, rtol=1e-6, atol=1.2e-38)
    np.testing.assert_allclose(
        by_d, np.clip(expected, -HUGE, HUGE), rtol=1e-6, atol=1.2e-38
    )


@given(st.floats(2.0**-126, HUGE, width=32))
def test_log_matches_float64_and_its_slope_is_one_over_x(x):
    value, gradient = jax.value_and_grad(safe_log)(jnp.float32(x))
    np.testing.assert_allclose(value, np.log(np.float64(x)), rtol=32 * 6e-8, atol=1e-7)
    np.testing.assert_allclose(gradient, 1 / x, rtol=1e-6, atol=1.2e-38)


@pytest.mark.parametrize("dtype", DTYPES)
def test_log_and_root_match_float64_in_the_dtype_of_the_input(dtype, assert_ulps):
    x = jnp.asarray(np.geomspace(7e-5, 6e4, 400), dtype)
    exact = np.asarray(x, np.float64)
    ulps = 32 if dtype == jnp.float32 else 2
    assert_ulps(safe_log(x), np.log(exact), ulps, scale=np.abs(np.log(exact)) + 0.1)
    assert_ulps(safe_sqrt(x), np.sqrt(exact), 4 if dtype == jnp.float32 else 2)


def test_log_below_its_floor_is_flat():
    x = jnp.array([-1.0, 0.0, 0.4])
    value, gradient = safe_log(x, floor=0.5), slope(lambda v: safe_log(v, floor=0.5), x)
    np.testing.assert_allclose(value, np.log(0.5), rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0.0)


def test_root_is_flat_at_and_below_zero():
    x = jnp.array([-4.0, 0.0, 4.0])
    assert safe_sqrt(x).tolist() == [0.0, 0.0, 2.0]
    assert slope(safe_sqrt, x).tolist() == [0.0, 0.0, 0.25]


@pytest.mark.parametrize("exponent", [0.1, 0.5, 1.0, 2.0, 7.5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_power_and_its_slope_match_float64_and_saturate(exponent, dtype, assert_ulps):
    power = functools.partial(safe_power, exponent=exponent)
    x = jnp.asarray(np.geomspace(7e-5, 6e4, 100), dtype)
    wide, limit = np.asarray(x, np.float64), float(jnp.finfo(dtype).max)
    # The logarithm of the power, up to 82 in float32, is rounded first.
    ulps = 128 if dtype == jnp.float32 else 2
    assert_ulps(jax.jit(power)(x), np.clip(wide**exponent, 0, limit), ulps)
    exact = exponent * wide ** (exponent - 1)
    assert_ulps(slope(power, x), np.clip(exact, 0, limit), ulps)


def test_power_is_flat_at_and_below_zero():
    x = jnp.array([-4.0, 0.0, 4.0])
    for exponent in (0.5, 1.0, 3.0):
        power = functools.partial(safe_power, exponent=exponent)
        np.testing.assert_array_equal(power(x)[:2], np.zeros(2))
        np.testing.assert_array_equal(slope(power, x)[:2], np.zeros(2))
    assert np.isinf(jax.grad(lambda x: x**0.5)(0.0))  # what it cures
    assert float(safe_power(jnp.float32(jnp.inf), exponent=2.0)) == np.inf


@pytest.mark.parametrize("bad", [0.0, -0.5, np.nan, np.inf])
def test_an_exponent_with_a_pole_is_refused(bad):
    with pytest.raises(ValueError, match="safe_power: exponent must be in"):
        safe_power(jnp.ones(2), exponent=bad)


@given(FLOATS, st.floats(1e-3, 1e3), st.floats(1e-6, 1.0), st.floats(2.0, 1e6))
def test_both_reciprocals_stay_between_their_bounds(x, scale, low, high):
    for function in (bounded_reciprocal, smooth_bounded_reciprocal):
        value = float(function(jnp.float32(x), scale=scale, low=low, high=high))
        assert scale / high * (1 - 1e-6) <= value <= scale / low * (1 + 1e-6)


def test_bounded_reciprocal_equals_the_doubly_clipped_weight():
    mean = np.float32([0.0, 1e-5, 1e-3, 0.02, 0.5, 9.0, 50.0])
    clipped = np.clip(0.1 / np.clip(mean.astype(np.float64), 1e-4, 10.0), 0.01, 10.0)
    ours = bounded_reciprocal(jnp.array(mean), scale=0.1, low=0.01, high=10.0)
    np.testing.assert_allclose(ours, clipped, rtol=4e-7)


def test_bounded_reciprocal_has_no_slope_outside_and_that_of_1_over_x_inside():
    hard = functools.partial(bounded_reciprocal, scale=1.0, low=0.5, high=4.0)
    x = jnp.array([-1.0, 0.4, 0.5, 2.0, 4.0, 5.0])
    expected = [0.0, 0.0, -4.0, -0.25, -1 / 16, 0.0]
    np.testing.assert_allclose(slope(hard, x), expected, rtol=1e-6)


def test_smooth_reciprocal_falls_everywhere_and_agrees_with_1_over_x_between():
    smooth = functools.partial(smooth_bounded_reciprocal, scale=1.0, low=1e-4, high=1e4)
    x = jnp.array([-1e30, -1e6, -1.0, 0.0, 1e-4, 0.05, 1.0, 50.0, 1e4, 1e30])
    assert np.all(np.asarray(slope(smooth, x)) < 0)
    assert np.all(np.diff(np.asarray(smooth(x))) <= 0)
    np.testing.assert_allclose(smooth(x[5:8]), 1 / x[5:8], rtol=6e-3)


@given(st.floats(-1e3, 1e3, width=32))
def test_the_smooth_slope_is_the_derivative_of_its_formula(x):
    low, high, scale = 0.25, 8.0, 2.0
    z = np.float64(x) - low
    above = (
        low + (z + np.hypot(z, low)) / 2
        if z > 0
        else low * (1 + low / (np.hypot(z, low) - z) / 2)
    )
    rise = (above - low) / np.hypot(z, low)
    exact = -(scale / low - scale / high) * low * rise / above**2
    smooth = functools.partial(
        smooth_bounded_reciprocal, scale=scale, low=low, high=high
    )
    np.testing.assert_allclose(jax.grad(smooth)(jnp.float32(x)), exact, rtol=1e-5)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-40])
def test_a_floor_that_float32_cannot_hold_is_refused(bad):
    x = jnp.ones(2)
    with pytest.raises(ValueError, match="safe_divide: floor must be in"):
        safe_divide(x, x, floor=bad)
    with pytest.raises(ValueError, match="safe_log: floor must be in"):
        safe_log(x, floor=bad)


def test_reciprocal_limits_in_the_wrong_order_are_refused():
    for function in (bounded_reciprocal, smooth_bounded_reciprocal):
        with pytest.raises(ValueError, match="low must be < high, got"):
            function(jnp.ones(2), scale=1.0, low=2.0, high=1.0)


def test_float64_is_kept():
    with jax.enable_x64(True):
        x = jnp.array([0.0, 2.0], jnp.float64)
        for function in (safe_log, safe_sqrt):
            assert function(x).dtype == jnp.float64
        np.testing.assert_allclose(safe_log(x)[1], np.log(2.0), rtol=1e-15)
