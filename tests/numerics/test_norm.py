"""The norm from the smallest to the largest numbers, and its unit gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax import numerics

pytestmark = pytest.mark.optimized

safe_norm = jax.jit(numerics.safe_norm, static_argnames=("axis", "keepdims"))
LEARN = jax.jit(jax.value_and_grad(numerics.safe_norm))
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
VECTORS = hnp.arrays(
    np.float32,
    5,
    elements=st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [3e-38, 1e-30, 1e-3, 1.0, 300.0, 6e4, 1e30, 3e37])
def test_norm_matches_float64_at_any_size(dtype, size, assert_ulps):
    x = np.random.default_rng(0).uniform(0.5, 1.0, (3, 50)) * size
    x = np.asarray(np.minimum(x, float(jnp.finfo(dtype).max)), dtype)
    norm = safe_norm(x, axis=1)
    assert norm.dtype == jnp.float32
    assert_ulps(norm, np.linalg.norm(np.asarray(x, np.float64), axis=1), 32)


@given(VECTORS)
def test_norm_matches_float64_and_its_gradient_is_the_unit_vector(x):
    exact = np.linalg.norm(x.astype(np.float64))
    value, gradient = LEARN(x)
    np.testing.assert_allclose(value, exact, rtol=32 * 6e-8)
    unit = x / exact if exact else np.zeros(5)
    np.testing.assert_allclose(gradient, unit, rtol=1e-5, atol=1e-37)


def test_the_gradient_at_zero_is_zero():
    np.testing.assert_array_equal(LEARN(np.zeros(3, np.float32))[1], np.zeros(3))


def test_a_row_of_zeros_does_not_disturb_the_other_rows():
    rows = np.float32([[0.0, 0.0], [3.0, 4.0]])
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(safe_norm(x, axis=1))))(rows)
    np.testing.assert_allclose(gradient, [[0.0, 0.0], [0.6, 0.8]], rtol=1e-6)


def test_a_norm_past_float32_saturates_but_keeps_its_direction():
    value, gradient = LEARN(np.full(4, HUGE, np.float32))
    assert float(value) == HUGE
    np.testing.assert_allclose(gradient, 0.5, rtol=1e-6)


def test_infinity_and_nan_are_told_apart():
    rows = jnp.array([[jnp.inf, 1.0], [jnp.nan, 1.0], [jnp.nan, jnp.inf], [3.0, 4.0]])
    norms = np.asarray(safe_norm(rows, axis=1))
    np.testing.assert_array_equal(norms, [np.inf, np.nan, np.nan, 5.0])


def test_axes_and_keepdims_are_those_of_numpy():
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for axis in (None, 0, -1, (0, 2), (-1, 0)):
        for keep in (False, True):
            norm = safe_norm(x, axis=axis, keepdims=keep)
            every = tuple(range(3)) if axis is None else axis
            exact = np.sqrt(np.sum(np.asarray(x) ** 2, axis=every, keepdims=keep))
            assert norm.shape == exact.shape
            np.testing.assert_allclose(norm, exact, rtol=1e-6)


def test_an_empty_array_has_norm_zero():
    assert float(safe_norm(np.zeros(0, np.float32))) == 0.0


def test_the_second_derivative_is_finite_at_zero():
    hessian = jax.jit(jax.hessian(numerics.safe_norm))(np.zeros(2, np.float32))
    assert np.all(np.isfinite(hessian))


def test_float64_is_kept_and_has_its_own_range():
    with jax.enable_x64(True):
        norm = safe_norm(np.array([3e200, 4e200]))
        assert norm.dtype == jnp.float64
        np.testing.assert_allclose(norm, 5e200, rtol=1e-14)
