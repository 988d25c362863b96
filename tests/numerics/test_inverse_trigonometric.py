"""Arc cosine and arc sine: values and slopes up to the last number before one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.numerics import safe_arccos, safe_arcsin

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
PAIRS = [
    pytest.param(safe_arccos, np.arccos, jnp.arccos, -1, id="arccos"),
    pytest.param(safe_arcsin, np.arcsin, jnp.arcsin, 1, id="arcsin"),
]


def inside(dtype):
    """Return numbers of the dtype within (-1, 1), the last one before one included."""
    last = float(jnp.nextafter(jnp.ones((), dtype), jnp.zeros((), dtype)))
    gaps = (1 - last) * np.array([1, 2, 3, 5, 10, 20])
    x = np.concatenate([1 - gaps, gaps - 1, np.linspace(-0.9, 0.9, 91)])
    return jnp.asarray(x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("safe", "exact", "plain", "sign"), PAIRS)
def test_value_and_slope_match_float64_up_to_the_last_number_before_one(
    safe, exact, plain, sign, dtype, assert_ulps
):
    x = inside(dtype)
    value, slope = jax.jit(jax.vmap(jax.value_and_grad(safe)))(x)
    assert value.dtype == slope.dtype == dtype
    wide = np.asarray(x, np.float64)
    ulps = 8 if dtype == jnp.float32 else 1
    assert_ulps(value, exact(wide), ulps, scale=np.maximum(np.abs(exact(wide)), 1e-3))
    assert_ulps(slope, sign / np.sqrt((1 - wide) * (1 + wide)), ulps)


@pytest.mark.parametrize(("safe", "exact", "plain", "sign"), PAIRS)
def test_it_is_the_form_of_jax_inside(safe, exact, plain, sign):
    x = inside(jnp.float32)
    ours = jax.vmap(jax.value_and_grad(safe))(x)
    theirs = jax.vmap(jax.value_and_grad(plain))(x)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    second = jax.vmap(jax.grad(jax.grad(safe)))(x[-91:])
    theirs = jax.vmap(jax.grad(jax.grad(plain)))(x[-91:])
    np.testing.assert_allclose(second, theirs, rtol=1e-5, atol=1e-6)
    assert np.isinf(jax.grad(plain)(1.0))  # what it cures


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("safe", "exact", "plain", "sign"), PAIRS)
def test_at_one_and_beyond_it_is_flat(safe, exact, plain, sign, dtype):
    above = float(jnp.nextafter(jnp.ones((), dtype), jnp.full((), 2, dtype)))
    x = jnp.asarray([1.0, above, 6e4, -1.0, -above, -6e4], dtype)
    value, slope = jax.vmap(jax.value_and_grad(safe))(x)
    np.testing.assert_allclose(
        np.asarray(value, np.float64), exact([1, 1, 1, -1, -1, -1]), rtol=4e-3
    )
    np.testing.assert_array_equal(slope, np.zeros(6))
    second = jax.vmap(jax.grad(jax.grad(safe)))(x)
    np.testing.assert_array_equal(second, np.zeros(6))


@pytest.mark.parametrize(("safe", "exact", "plain", "sign"), PAIRS)
@given(x=st.floats(-HUGE, HUGE, width=32))
def test_finite_inputs_give_finite_values_and_slopes(safe, exact, plain, sign, x):
    value, slope = jax.value_and_grad(safe)(jnp.float32(x))
    assert np.isfinite(value)
    assert abs(float(slope)) <= 2897


@pytest.mark.parametrize(("safe", "exact", "plain", "sign"), PAIRS)
def test_nan_stays_nan_and_debug_nans_are_not_disturbed(safe, exact, plain, sign):
    value, slope = jax.value_and_grad(safe)(jnp.float32(jnp.nan))
    assert np.isnan(value)
    assert np.isnan(slope)
    with jax.debug_nans(True):
        assert float(jax.jit(jax.grad(safe))(jnp.float32(1.0))) == 0.0


@pytest.mark.parametrize(("safe", "exact", "plain", "sign"), PAIRS)
def test_float64_is_kept(safe, exact, plain, sign):
    with jax.enable_x64(True):
        x = jnp.array([0.3, 1 - 1e-15], jnp.float64)
        assert safe(x).dtype == jnp.float64
        np.testing.assert_allclose(safe(x), exact(np.asarray(x)), rtol=1e-14)
