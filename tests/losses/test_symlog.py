"""The symmetric logarithm and its saturating inverse against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax import losses

pytestmark = pytest.mark.optimized

symlog, symexp = jax.jit(losses.symlog), jax.jit(losses.symexp)
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
FLOATS = st.floats(-HUGE, HUGE, width=32, allow_subnormal=False)


def grid(dtype, largest=3e38):
    largest = min(largest, float(jnp.finfo(dtype).max))
    size = np.geomspace(1e-30, largest, 300)
    return np.asarray(np.concatenate([-size, [0.0, 1.0, -1.0], size]), dtype)


@functools.partial(jax.jit, static_argnums=0)
def slope(function, x):
    return jax.vjp(function, x)[1](jnp.ones_like(x))[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_symlog_and_its_slope_match_float64(dtype, assert_ulps):
    x = grid(dtype)
    exact = np.asarray(x, np.float64)
    ulps = 8 if dtype == jnp.float32 else 2
    assert_ulps(symlog(x), np.sign(exact) * np.log1p(np.abs(exact)), ulps)
    assert_ulps(slope(symlog, x), 1 / (1 + np.abs(exact)), ulps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_symexp_and_its_slope_match_float64_where_they_fit(dtype, assert_ulps):
    fits = 0.999 * np.log(float(jnp.finfo(dtype).max))
    x = grid(dtype, fits)
    exact = np.asarray(x, np.float64)
    # The rounding inside exp grows with its argument.
    ulps = 100 if dtype == jnp.float32 else 3
    assert_ulps(symexp(x), np.sign(exact) * np.expm1(np.abs(exact)), ulps)
    assert_ulps(slope(symexp, x), np.exp(np.abs(exact)), ulps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x", [90.0, 1e4, 6e4])
def test_symexp_saturates_without_slope_where_no_number_is_large_enough(dtype, x):
    ends = np.asarray([x, -x], dtype)
    largest = float(jnp.finfo(dtype).max)
    np.testing.assert_array_equal(
        np.asarray(symexp(ends), np.float64), [largest, -largest]
    )
    np.testing.assert_array_equal(slope(symexp, ends), [0.0, 0.0])


def test_the_slope_of_symlog_at_zero_is_one():
    # sign(x) * log1p(|x|) written out has slope zero there: a zero never moves.
    for zero in (0.0, -0.0):
        assert float(slope(symlog, np.float32(zero))) == 1.0
        assert float(slope(symexp, np.float32(zero))) == 1.0


@given(FLOATS)
def test_symexp_undoes_symlog_to_the_digits_that_its_input_has(x):
    compressed = symlog(np.float32(x))
    error = 4 * np.finfo(np.float32).eps * (1.0 + abs(float(compressed)))
    back = float(symexp(compressed))
    assert np.isfinite(back)
    np.testing.assert_allclose(back, np.float32(x), rtol=error, atol=2.4e-38)


@given(FLOATS, FLOATS)
def test_symlog_is_odd_ordered_and_never_larger_than_its_input(x, y):
    pair = np.float32(sorted([x, y]))
    low, high = np.asarray(symlog(pair))
    assert low <= high
    assert np.all(np.abs([low, high]) <= np.abs(np.float64(pair)) * (1 + 1e-6))
    np.testing.assert_array_equal(symlog(-pair), [-low, -high])


def test_infinities_stay_and_nan_stays():
    ends = jnp.array([jnp.inf, -jnp.inf, jnp.nan])
    for function in (symlog, symexp):
        np.testing.assert_array_equal(function(ends), [np.inf, -np.inf, np.nan])
