"""Masked mean, deviation and standardization against float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax import numerics

pytestmark = pytest.mark.optimized

masked_mean = jax.jit(numerics.masked_mean, static_argnames=("axis", "keepdims"))
safe_std = jax.jit(numerics.safe_std, static_argnames=("axis", "keepdims", "ddof"))
standardize = jax.jit(numerics.standardize, static_argnames=("axis", "ddof", "eps"))
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
VECTORS = hnp.arrays(
    np.float32,
    6,
    elements=st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False),
)
MASKS = hnp.arrays(np.bool_, 6)
FUNCTIONS = {"mean": masked_mean, "std": safe_std, "standardize": standardize}
COLLAPSED = [0.0, 0.1, 1e-30, 1e3, 1e38, HUGE, -HUGE]


@given(VECTORS, MASKS)
def test_mean_and_deviation_match_float64_over_the_mask(x, mask):
    chosen = x[mask].astype(np.float64)
    size = np.max(np.abs(chosen), initial=0.0)
    mean, std = masked_mean(x, mask), safe_std(x, mask)
    exact = (chosen.mean(), chosen.std()) if mask.any() else (0.0, 0.0)
    np.testing.assert_allclose(mean, exact[0], atol=32 * 6e-8 * size + 2e-38)
    np.testing.assert_allclose(std, exact[1], rtol=32 * 6e-8, atol=2e-38)


@functools.partial(jax.jit, static_argnums=0)
def value_and_slope(function, x, mask, cotangent=1.0):
    value, pull = jax.vjp(lambda v: function(v, mask), x)
    return value, pull(jnp.full_like(value, cotangent))[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("offset", "spread"), [(0, 1), (1e3, 30), (1e4, 1e-2), (0, 6e4)]
)
def test_deviation_matches_float64_also_far_from_zero(
    dtype, offset, spread, assert_ulps
):
    x = offset + spread * np.random.default_rng(1).uniform(-1, 1, (4, 200))
    x = np.asarray(x, dtype)
    exact = np.asarray(x, np.float64)
    std = safe_std(x, axis=1, ddof=1)
    assert std.dtype == jnp.float32
    assert_ulps(std, exact.std(1, ddof=1), 32)
    assert_ulps(masked_mean(x, axis=1), exact.mean(1), 32, scale=np.abs(exact).max(1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_standardize_matches_float64_and_keeps_the_dtype(dtype, assert_ulps):
    x = np.asarray(np.random.default_rng(2).normal(3.0, 2.0, (3, 64)), dtype)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / (
        exact.std(1, keepdims=True) + 1e-8
    )
    ours = standardize(x, axis=1)
    assert ours.dtype == dtype
    ulps = 32 if dtype == jnp.float32 else 2
    assert_ulps(ours, exact, ulps, scale=np.maximum(np.abs(exact), 1e-1))


@pytest.mark.parametrize("name", FUNCTIONS)
@given(x=VECTORS, mask=MASKS)
def test_value_and_gradient_are_finite_for_finite_inputs(name, x, mask):
    value, gradient = value_and_slope(FUNCTIONS[name], x, mask, 100.0)
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))


def half_the_square_of(function):
    return lambda x, mask: jnp.sum(function(x, mask) ** 2 * jnp.float32(0.5))


TOTALS = {
    f: jax.jit(jax.value_and_grad(half_the_square_of(f))) for f in FUNCTIONS.values()
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("poison", [np.nan, np.inf, HUGE])
def test_what_is_masked_out_changes_neither_value_nor_gradient(name, poison):
    function, mask = FUNCTIONS[name], np.array([True, False, True, True])
    total = TOTALS[function]
    dirty = total(np.float32([1.0, poison, 2.0, 6.0]), mask)
    clean = total(np.float32([1.0, 0.0, 2.0, 6.0]), mask)
    np.testing.assert_array_equal(dirty[0], clean[0])
    np.testing.assert_array_equal(dirty[1], clean[1])
    assert float(dirty[1][1]) == 0.0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_that_counts_stays_nan(name):
    assert np.any(np.isnan(FUNCTIONS[name](np.float32([1.0, np.nan, 2.0]))))


def FIRST_SCORE(x, mask):
    return standardize(x, mask)[0]


@pytest.mark.parametrize("level", COLLAPSED)
def test_a_constant_has_no_deviation_and_standardizes_to_zero(level):
    x, every = np.full(999, level, np.float32), np.ones(999, np.bool_)
    std, slope = value_and_slope(safe_std, x, every)
    assert float(std) == 0.0
    np.testing.assert_array_equal(slope, 0.0)
    np.testing.assert_array_equal(standardize(x), np.zeros(999))
    _, gradient = value_and_slope(FIRST_SCORE, x, every)
    assert np.all(np.isfinite(gradient))


def test_one_entry_and_no_entry_are_finite():
    for n in (0, 1):
        x = np.full(n, 5.0, np.float32)
        assert float(safe_std(x, ddof=1)) == 0.0
        assert np.sum(standardize(x, ddof=1)) == 0.0
        assert float(masked_mean(x)) == 5.0 * n


def test_an_empty_mask_gives_zero_with_zero_gradient():
    none, lost = np.zeros(3, np.bool_), np.full(3, np.nan, np.float32)
    for function in (masked_mean, safe_std):
        value, slope = value_and_slope(function, lost, none)
        assert float(value) == 0.0
        np.testing.assert_array_equal(slope, np.zeros(3))


def test_each_row_is_averaged_over_its_own_count():
    x = np.float32([[1.0, 3.0, np.nan], [5.0, np.nan, np.nan], [np.nan] * 3])
    mean = masked_mean(x, np.isfinite(x), axis=1)
    assert mean.tolist() == [2.0, 5.0, 0.0]
    assert masked_mean(x, np.isfinite(x), axis=-1, keepdims=True).shape == (3, 1)


def test_the_mean_of_the_largest_numbers_does_not_overflow():
    for level in (2e38, HUGE):
        mean = float(masked_mean(np.full(1000, level, np.float32)))
        assert mean == pytest.approx(level, rel=1e-6)


def test_half_precision_sums_are_taken_in_float32():
    x = np.full(4096, 300.0, np.float16)  # the sum is far past 65504
    assert float(masked_mean(x)) == 300.0


def test_the_gradient_of_the_deviation_is_its_formula():
    x = np.float32([1.0, 2.0, 4.0, 9.0])
    deviation = functools.partial(numerics.safe_std, ddof=1)
    gradient = jax.jit(jax.grad(deviation))(x)
    exact = (x - x.mean()) / (3 * x.std(ddof=1))
    np.testing.assert_allclose(gradient, exact, rtol=1e-6)


def test_the_gradient_of_standardize_matches_finite_differences():
    x, direction = np.array([1.0, 2.0, 4.0, 9.0]), np.array([0.3, -0.1, 0.7, 0.2])

    def exact(v):
        return (v - v.mean()) / (v.std() + 1e-8)

    along = jax.jit(lambda x, t: jax.jvp(numerics.standardize, (x,), (t,))[1])
    tangent = along(np.float32(x), np.float32(direction))
    numeric = (exact(x + 1e-6 * direction) - exact(x - 1e-6 * direction)) / 2e-6
    np.testing.assert_allclose(tangent, numeric, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("eps", [0.0, -1.0, np.nan, np.inf])
def test_an_eps_that_leaves_a_pole_is_refused(eps):
    with pytest.raises(ValueError, match="standardize: eps must be in"):
        standardize(jnp.ones(3), eps=eps)


def test_a_negative_ddof_is_refused():
    with pytest.raises(ValueError, match="safe_std: ddof must be in"):
        safe_std(jnp.ones(3), ddof=-1)
