"""Division, logarithm, root, power, reciprocals: values, slopes, nasty inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax import numerics
from stabjax.numerics import (
    bounded_reciprocal,
    safe_power,
    smooth_bounded_reciprocal,
)

pytestmark = pytest.mark.optimized

# One program each, where without jit each operation would be one.
safe_divide = jax.jit(numerics.safe_divide, static_argnames="floor")
safe_log = jax.jit(numerics.safe_log, static_argnames="floor")
safe_sqrt = jax.jit(numerics.safe_sqrt)
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
    return np.clip(NASTY, -limit, limit).astype(dtype)


@functools.partial(jax.jit, static_argnums=0)
def value_and_slope(function, x):
    value, pull = jax.vjp(function, x)
    return value, pull(jnp.ones_like(value))[0]


def slope(function, x):
    return np.asarray(value_and_slope(function, x)[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_finite_inputs_give_finite_values_and_slopes_of_their_dtype(name, dtype):
    value, gradient = value_and_slope(FUNCTIONS[name], nasty(dtype))
    assert value.dtype == gradient.dtype == dtype
    assert not value.weak_type
    assert bool(jnp.all(jnp.isfinite(value)))
    assert bool(jnp.all(jnp.isfinite(gradient)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_stays_nan_and_stays_alone(name, dtype):
    x = nasty(dtype)
    x[0] = np.nan
    value = np.asarray(value_and_slope(FUNCTIONS[name], x)[0], np.float32)
    assert np.flatnonzero(np.isnan(value)).tolist() == [0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_divide_matches_float64_from_tiny_to_huge(dtype, assert_ulps):
    limit = float(jnp.finfo(dtype).max)
    sizes = np.clip([1e-37, 1e-30, 7e-4, 3.0, 1e20, 1e38, HUGE], 0, limit)
    over, under = np.meshgrid(sizes, np.concatenate([sizes[1:], -sizes[1:]]))
    over, under = jnp.asarray(over, dtype), jnp.asarray(under, dtype)
    quotient = safe_divide(over, under, floor=1e-4)
    d = np.asarray(under, np.float64)
    d = np.where(np.abs(d) < 1e-4, np.where(d < 0, -1e-4, 1e-4), d)
    exact = np.clip(np.asarray(over, np.float64) / d, -limit, limit)
    assert_ulps(quotient, exact, 4 if dtype == jnp.float32 else 2)


def test_dividing_by_the_scalar_1e38_is_not_flushed_to_zero():
    quotient = safe_divide(np.full(4, 1e38, np.float32), np.float32(1e38), floor=1.0)
    assert float(quotient[0]) == 1.0


def test_divide_keeps_infinity_and_saturates_overflow():
    over, under = np.float32([np.inf, 3e38, 1.0]), np.float32([1.0, 1e-3, np.inf])
    quotient = safe_divide(over, under, floor=1e-8)
    np.testing.assert_array_equal(quotient, np.float32([np.inf, HUGE, 0.0]))


SLOPES = jax.jit(
    jax.grad(functools.partial(numerics.safe_divide, floor=1e-3), argnums=(0, 1))
)


@given(FLOATS, FLOATS)
def test_divide_has_the_slopes_of_a_quotient_and_none_below_the_floor(n, d):
    by_n, by_d = SLOPES(np.float32(n), np.float32(d))
    held = d if abs(d) >= 1e-3 else (-1e-3 if d < 0 else 1e-3)
    expected = -n / held**2 if abs(d) >= 1e-3 else 0.0
    np.testing.assert_allclose(by_n, 1 / held, rtol=1e-6, atol=1.2e-38)
    np.testing.assert_allclose(
        by_d, np.clip(expected, -HUGE, HUGE), rtol=1e-6, atol=1.2e-38
    )


@given(st.floats(2.0**-126, HUGE, width=32))
def test_log_matches_float64_and_its_slope_is_one_over_x(x):
    value, gradient = value_and_slope(safe_log, np.float32(x))
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
    x = np.float32([-1.0, 0.0, 0.4])
    value, gradient = value_and_slope(functools.partial(safe_log, floor=0.5), x)
    np.testing.assert_allclose(value, np.log(0.5), rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0.0)


def test_root_is_flat_at_and_below_zero():
    x = np.float32([-4.0, 0.0, 4.0])
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
        # The bounds differ each time, so this one is not compiled as a whole.
        value = float(function(jnp.float32(x), scale=scale, low=low, high=high))
        assert scale / high * (1 - 1e-6) <= value <= scale / low * (1 + 1e-6)


def test_bounded_reciprocal_equals_the_doubly_clipped_weight():
    mean = np.float32([0.0, 1e-5, 1e-3, 0.02, 0.5, 9.0, 50.0])
    clipped = np.clip(0.1 / np.clip(mean.astype(np.float64), 1e-4, 10.0), 0.01, 10.0)
    ours = bounded_reciprocal(jnp.array(mean), scale=0.1, low=0.01, high=10.0)
    np.testing.assert_allclose(ours, clipped, rtol=4e-7)


def test_bounded_reciprocal_has_no_slope_outside_and_that_of_1_over_x_inside():
    hard = functools.partial(bounded_reciprocal, scale=1.0, low=0.5, high=4.0)
    x = np.float32([-1.0, 0.4, 0.5, 2.0, 4.0, 5.0])
    expected = [0.0, 0.0, -4.0, -0.25, -1 / 16, 0.0]
    np.testing.assert_allclose(slope(hard, x), expected, rtol=1e-6)


def test_smooth_reciprocal_falls_everywhere_and_agrees_with_1_over_x_between():
    smooth = functools.partial(smooth_bounded_reciprocal, scale=1.0, low=1e-4, high=1e4)
    x = np.float32([-1e30, -1e6, -1.0, 0.0, 1e-4, 0.05, 1.0, 50.0, 1e4, 1e30])
    value, gradient = map(np.asarray, value_and_slope(smooth, x))
    assert np.all(gradient < 0)
    assert np.all(np.diff(value) <= 0)
    np.testing.assert_allclose(value[5:8], 1 / x[5:8], rtol=6e-3)


SMOOTH = functools.partial(smooth_bounded_reciprocal, scale=2.0, low=0.25, high=8.0)


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
    np.testing.assert_allclose(slope(SMOOTH, np.float32(x)), exact, rtol=1e-5)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-40])
def test_a_floor_that_float32_cannot_hold_is_refused(bad):
    x = np.ones(2, np.float32)
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
        x = np.array([0.0, 2.0])
        for function in (safe_log, safe_sqrt):
            assert function(x).dtype == jnp.float64
        np.testing.assert_allclose(safe_log(x)[1], np.log(2.0), rtol=1e-15)
