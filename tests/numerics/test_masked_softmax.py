"""The masked softmax against float64, and rows where nothing is left."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.numerics import masked_softmax

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
HUGE = float(np.finfo(np.float32).max)
ROWS = hnp.arrays(np.float32, (2, 4), elements=st.floats(-HUGE, HUGE, width=32))
MASKS = hnp.arrays(np.bool_, (2, 4))


def exact(logits, mask, axis=-1):
    """Return the masked softmax in float64."""
    wide = np.where(mask, np.asarray(logits, np.float64), -np.inf)
    top = np.max(wide, axis=axis, keepdims=True)
    weights = np.where(mask, np.exp(wide - np.where(np.isinf(top), 0, top)), 0)
    total = weights.sum(axis, keepdims=True)
    return weights / np.where(total == 0, 1, total)


def gradient_of(logits, mask, cotangent, axis=-1):
    """Return the gradient of ``sum(softmax * cotangent)``."""
    pull = jax.vjp(lambda x: masked_softmax(x, mask, axis=axis), logits)[1]
    return pull(cotangent)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, -1, 1])
def test_it_and_its_gradient_match_float64(dtype, axis, assert_ulps):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(3, 4, 5)) * 4, dtype)
    mask = rng.random((3, 4, 5)) < 0.6
    weights = jax.jit(masked_softmax, static_argnames="axis")(
        logits, jnp.asarray(mask), axis=axis
    )
    assert weights.dtype == dtype
    p = exact(logits, mask, axis)
    ulps = 16 if dtype == jnp.float32 else 2
    assert_ulps(weights, p, ulps, scale=np.maximum(p, 1e-3))
    g = jnp.asarray(rng.normal(size=(3, 4, 5)), dtype)
    wide = np.asarray(g, np.float64)
    expected = p * (wide - np.sum(p * wide, axis=axis, keepdims=True))
    ours = gradient_of(logits, jnp.asarray(mask), g, axis)
    assert ours.dtype == dtype
    assert_ulps(ours, expected, ulps, scale=1.0)


def test_with_all_entries_it_is_that_of_jax():
    rng = np.random.default_rng(1)
    x, g = (jnp.asarray(rng.normal(size=(4, 6)), jnp.float32) for _ in range(2))
    ours, theirs = jax.vjp(masked_softmax, x), jax.vjp(jax.nn.softmax, x)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1](g)[0], theirs[1](g)[0], rtol=1e-5, atol=1e-7)
    of = lambda softmax: jax.hessian(lambda x: jnp.vdot(softmax(x), g[0]))(x[0])
    np.testing.assert_allclose(of(masked_softmax), of(jax.nn.softmax), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("poison", [0.0, jnp.nan, jnp.inf, -jnp.inf, 6e4])
def test_a_row_without_a_key_gives_zeros_and_disturbs_no_other(dtype, poison):
    mask = jnp.array([[False, False, False], [True, False, True]])
    logits = jnp.array([[poison, 1.0, poison], [1.0, poison, 1.0]], dtype)
    weights = masked_softmax(logits, mask)
    assert weights.tolist() == [[0.0, 0.0, 0.0], [0.5, 0.0, 0.5]]
    g = jnp.array([[1.0, 2.0, 3.0], [1.0, 7.0, 0.0]], dtype)
    gradient = gradient_of(logits, mask, g)
    assert gradient.tolist() == [[0.0, 0.0, 0.0], [0.25, 0.0, -0.25]]


def test_what_is_masked_out_may_have_a_gradient_that_is_not_finite():
    mask = jnp.array([[False, False, False], [True, False, True]])
    g = jnp.array([[jnp.nan, jnp.inf, 1.0], [1.0, jnp.nan, 0.0]])
    zeros, expected = jnp.zeros((2, 3)), [[0.0, 0.0, 0.0], [0.25, 0.0, -0.25]]
    assert gradient_of(zeros, mask, g).tolist() == expected
    forward = jax.jvp(lambda x: masked_softmax(x, mask), (zeros,), (g,))[1]
    assert forward.tolist() == expected


def test_minus_infinity_is_a_mask_as_well():
    logits = jnp.array([[-jnp.inf, -jnp.inf], [-jnp.inf, 2.0]])
    assert masked_softmax(logits).tolist() == [[0.0, 0.0], [0.0, 1.0]]
    g = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    assert gradient_of(logits, None, g).tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert np.isnan(jax.nn.softmax(logits)[0]).all()  # what it cures


@given(ROWS, MASKS)
def test_value_and_gradient_are_finite_for_finite_inputs(logits, mask):
    value = masked_softmax(jnp.asarray(logits), jnp.asarray(mask))
    gradient = gradient_of(
        jnp.asarray(logits), jnp.asarray(mask), jnp.full((2, 4), 100.0)
    )
    assert np.all(np.isfinite(gradient))
    np.testing.assert_allclose(value, exact(logits, mask), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.sum(value, -1), mask.any(-1), rtol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_counts_is_not_repaired(bad):
    value = masked_softmax(jnp.array([[bad, 1.0], [0.0, 0.0]]))
    assert np.isnan(value[0]).all()
    assert value[1].tolist() == [0.5, 0.5]


def test_a_mask_broadcasts_over_heads_and_works_in_vmap():
    rng = np.random.default_rng(2)
    logits = jnp.asarray(rng.normal(size=(2, 3, 4, 4)), jnp.float32)
    mask = rng.random((2, 1, 1, 4)) < 0.5
    whole = masked_softmax(logits, jnp.asarray(mask))
    every = np.broadcast_to(mask, logits.shape)
    np.testing.assert_allclose(whole, exact(logits, every), rtol=1e-5, atol=1e-7)
    causal = jnp.tril(jnp.ones((4, 4), jnp.bool_))  # fewer axes than the logits
    ours = jax.vmap(masked_softmax, in_axes=(0, None))(logits, causal)
    every = np.broadcast_to(causal, logits.shape)
    np.testing.assert_allclose(ours, exact(logits, every), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shape", [(3, 3), (1, 4, 2), (4, 3), (3,)])
def test_a_mask_of_another_shape_is_refused(shape):
    with pytest.raises(ValueError, match="masked_softmax: mask must broadcast to the"):
        masked_softmax(jnp.zeros((4, 2)), jnp.ones(shape, jnp.bool_))


def test_a_row_without_a_key_passes_debug_nans():
    mask = jnp.array([[False, False], [True, True]])
    logits = jnp.array([[-jnp.inf, 1.0], [1.0, 2.0]])
    with jax.debug_nans(True):
        gradient = jax.jit(gradient_of)(logits, mask, jnp.ones((2, 2)))
    assert np.all(np.isfinite(gradient))


def test_float64_is_kept():
    with jax.enable_x64(True):
        logits = jnp.array([1.0, 2.0], jnp.float64)
        assert masked_softmax(logits).dtype == jnp.float64
        weights = exact(logits, np.ones(2, np.bool_))
        np.testing.assert_allclose(masked_softmax(logits), weights, rtol=1e-15)
