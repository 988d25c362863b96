"""The unit vector from the smallest to the largest numbers, and none for zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.numerics import safe_normalize

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
VECTORS = hnp.arrays(
    np.float32,
    4,
    elements=st.floats(-HUGE, HUGE, width=32, allow_subnormal=False),
)


def unit(x):
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-3, 1.0, 300.0, 6e4, 1e30, HUGE])
def test_it_matches_float64_at_any_size(dtype, size, assert_ulps):
    x = np.random.default_rng(0).uniform(0.5, 1.0, (3, 50)) * size
    info = jnp.finfo(dtype)
    x = jnp.asarray(np.clip(x, float(info.tiny), float(info.max)), dtype)
    ours = jax.jit(safe_normalize)(x)
    assert ours.dtype == dtype
    assert_ulps(ours, unit(x), 16 if dtype == jnp.float32 else 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_zero_vector_stays_zero_with_zero_gradient_beside_others(dtype):
    x = jnp.array([[0.0, 0.0], [3.0, 4.0]], dtype)
    weights = jnp.array([[1.0, 2.0], [5.0, 0.0]], dtype)

    def loss(x):
        return jnp.sum((safe_normalize(x) * weights).astype(jnp.float32))

    value, gradient = jax.jit(jax.value_and_grad(loss))(x)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(value, 3.0, rtol=4e-3)
    exact = [[0.0, 0.0], [16 / 25, -12 / 25]]
    np.testing.assert_allclose(np.asarray(gradient, np.float32), exact, rtol=5e-3)
    np.testing.assert_array_equal(safe_normalize(x)[0], np.zeros(2))


def test_the_gradient_is_that_of_jax_where_that_is_finite():
    x = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4)), jnp.float32)
    plain = lambda x: x / jnp.linalg.norm(x)
    ours = jax.vmap(jax.jacobian(safe_normalize))(x)
    theirs = jax.vmap(jax.jacobian(plain))(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    assert np.isnan(jax.jacobian(plain)(jnp.zeros(2))).all()  # what it cures


@given(VECTORS)
def test_value_and_gradient_are_finite_for_finite_inputs(x):
    value, pull = jax.vjp(safe_normalize, jnp.asarray(x))
    (gradient,) = pull(jnp.ones_like(value))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))
    assert np.linalg.norm(value) <= 1 + 1e-6


@given(hnp.arrays(np.float16, 4, elements=st.floats(-6e4, 6e4, width=16)))
def test_float16_is_finite_too(x):
    value, pull = jax.vjp(safe_normalize, jnp.asarray(x))
    (gradient,) = pull(jnp.full_like(value, 0.5))
    assert np.all(np.isfinite(value))
    assert np.all(np.isfinite(gradient))


def test_a_slope_beyond_float16_saturates():
    function = functools.partial(safe_normalize, floor=1e-12)
    x = jnp.array([1e-6, 0.0], jnp.float16)
    slope = jax.jacobian(function)(x)[1, 1]
    assert slope == jnp.finfo(jnp.float16).max


def test_below_the_floor_it_is_a_division_by_the_floor():
    function = functools.partial(safe_normalize, floor=0.5)
    x = jnp.array([0.03, -0.04])
    np.testing.assert_allclose(function(x), [0.06, -0.08], rtol=1e-6)
    np.testing.assert_allclose(jax.jacobian(function)(x), 2 * np.eye(2), rtol=1e-6)
    # At the floor both forms agree, above it the floor is not felt.
    np.testing.assert_allclose(function(x * 10), [0.6, -0.8], rtol=1e-6)
    above = jax.jacobian(function)(x * 100)
    np.testing.assert_allclose(
        above, jax.jacobian(safe_normalize)(x * 100), rtol=1e-5, atol=1e-8
    )


def test_axes_are_those_of_numpy():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(2, 3, 4)), jnp.float32)
    for axis in (None, 0, -1, (0, 2), (-1, 0)):
        every = tuple(range(3)) if axis is None else axis
        exact = x / np.sqrt(np.sum(np.asarray(x) ** 2, axis=every, keepdims=True))
        np.testing.assert_allclose(safe_normalize(x, axis=axis), exact, rtol=1e-6)


def test_nan_stays_nan_and_stays_in_its_vector():
    value = safe_normalize(jnp.array([[jnp.nan, 1.0], [0.0, 2.0]]))
    assert np.isnan(value).tolist() == [[True, True], [False, False]]


@pytest.mark.parametrize("order", [jax.jacfwd, jax.jacrev])
def test_the_second_derivative_is_finite_at_zero(order):
    second = order(jax.jacrev(safe_normalize))(jnp.zeros(2))
    np.testing.assert_array_equal(second, np.zeros((2, 2, 2)))


def test_the_second_derivative_is_that_of_jax():
    x = jnp.array([0.3, -1.2, 0.5])
    ours = jax.hessian(lambda x: safe_normalize(x)[0])(x)
    theirs = jax.hessian(lambda x: (x / jnp.linalg.norm(x))[0])(x)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_healthy_gradient_passes_debug_nans():
    with jax.debug_nans(True):
        gradient = jax.jit(jax.jacobian(safe_normalize))(jnp.zeros(3))
    np.testing.assert_array_equal(gradient, np.zeros((3, 3)))


def test_an_empty_vector_is_empty():
    assert safe_normalize(jnp.zeros((2, 0))).shape == (2, 0)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-40])
def test_a_floor_that_float32_cannot_hold_is_refused(bad):
    with pytest.raises(ValueError, match="safe_normalize: floor must be in"):
        safe_normalize(jnp.ones(2), floor=bad)


def test_float64_is_kept():
    with jax.enable_x64(True):
        x = jnp.array([3e200, 4e200], jnp.float64)
        assert safe_normalize(x).dtype == jnp.float64
        np.testing.assert_allclose(safe_normalize(x), [0.6, 0.8], rtol=1e-14)
