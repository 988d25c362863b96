"""Gradients at right angles to weights and logits."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import (
    orthogonal_gradient,
    orthogonal_logits,
    stablemax_cross_entropy,
)

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
EPS = np.finfo(np.float32).eps
# XLA takes a subnormal number for zero.
VALUES = st.floats(-100, 100, width=32, allow_subnormal=False)
MATRIX = hnp.arrays(np.float32, (3, 4), elements=VALUES)
REST = jax.jit(orthogonal_gradient, static_argnames="keep_norm")


def oracle(gradient, weights, keep_norm=False):
    g, w = np.asarray(gradient, np.float64), np.asarray(weights, np.float64)
    square = np.sum(w * w)
    rest = g - np.sum(w * g) / square * w if square > 0 else g
    return rest * np.linalg.norm(g) / np.linalg.norm(rest) if keep_norm else rest


@pytest.mark.optimized
@given(MATRIX, MATRIX, st.sampled_from([1e-30, 1.0, 1e30]))
def test_the_rest_matches_float64_at_every_scale(gradient, weights, scale):
    gradient = np.where(np.abs(gradient) < 1e-6, 0, gradient) * np.float32(scale)
    weights = np.where(np.abs(weights) < 1e-6, 0, weights) / np.float32(scale)
    rest = REST(gradient, weights)
    room = 8 * EPS * np.linalg.norm(np.float64(gradient))
    np.testing.assert_allclose(rest, oracle(gradient, weights), rtol=0, atol=room)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_summed_in_float32_and_given_back(dtype):
    rng = np.random.default_rng(0)
    g, w = (np.asarray(rng.normal(0, 1, (50, 40)), dtype) for _ in range(2))
    rest = REST(g, w)
    assert rest.dtype == dtype
    room = 4 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.float64(rest), oracle(g, w), atol=room)


def test_a_step_changes_the_length_of_the_weights_only_in_second_order():
    rng = np.random.default_rng(1)
    w = rng.normal(0, 1, 100).astype(np.float32)
    g = 3 * w + rng.normal(0, 1, 100).astype(np.float32)
    moved = w - 1e-3 * np.float64(REST(g, w))
    plain = w - 1e-3 * np.float64(g)
    length = np.linalg.norm(np.float64(w))
    assert abs(np.linalg.norm(moved) / length - 1) < 1e-6
    assert abs(np.linalg.norm(plain) / length - 1) > 1e-3


def test_the_norm_is_kept_on_request_but_rounding_is_not_blown_up():
    g, w = jnp.array([5.0, 1.0, 2.0]), jnp.array([2.0, 0.1, 0.0])
    kept = REST(g, w, keep_norm=True)
    # The rest is enlarged, and its rounding with it.
    room = 8 * EPS * np.linalg.norm(g) ** 2 / np.linalg.norm(oracle(g, w))
    np.testing.assert_allclose(kept, oracle(g, w, keep_norm=True), atol=room)
    np.testing.assert_allclose(np.linalg.norm(kept), np.linalg.norm(g), rtol=1e-6)
    along = np.linspace(1.0, 2.0, 97, dtype=np.float32)
    left = REST(np.float32(-3.7) * along, along, keep_norm=True)
    assert np.max(np.abs(left)) < 1e-4


def test_leaves_without_a_direction_pass_as_they_are():
    params = {
        "zero": jnp.zeros(3),
        "scale": jnp.float32(2.0),
        "one": jnp.ones((1, 1)),
        "empty": jnp.zeros((0, 2)),
        "none": None,
        "count": jnp.arange(3),
    }
    gradients = params | {
        "zero": jnp.arange(3.0),
        "scale": jnp.float32(5.0),
        "one": jnp.full((1, 1), 4.0),
    }
    rest = REST(gradients, params)
    assert jax.tree.structure(rest) == jax.tree.structure(gradients)
    jax.tree.map(np.testing.assert_array_equal, rest, gradients)


def test_leaves_are_taken_one_by_one():
    params = {"a": jnp.array([1.0, 0.0]), "b": jnp.array([0.0, 1.0])}
    gradients = {"a": jnp.array([3.0, 4.0]), "b": jnp.array([jnp.nan, 4.0])}
    rest = REST(gradients, params)
    assert rest["a"].tolist() == [0.0, 4.0]
    assert np.all(np.isnan(rest["b"]))


def test_a_complex_leaf_is_a_pair_of_real_ones():
    rng = np.random.default_rng(2)
    g, w = (rng.normal(0, 1, (2, 5)).astype(np.float32) for _ in range(2))
    rest = REST(*(np.complex64(x[0] + 1j * x[1]) for x in (g, w)))
    exact = oracle(g, w)
    np.testing.assert_allclose(np.real(rest), exact[0], atol=1e-6)
    np.testing.assert_allclose(np.imag(rest), exact[1], atol=1e-6)


def test_it_runs_under_vmap_and_explicit_sharding():
    g = np.arange(12, dtype=np.float32).reshape(3, 4)
    w = np.ones((3, 4), np.float32)
    mapped = jax.jit(jax.vmap(orthogonal_gradient))(g, w)
    looped = np.stack([REST(a, b) for a, b in zip(g, w, strict=True)])
    np.testing.assert_allclose(mapped, looped, rtol=1e-6)
    mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    spread = jax.NamedSharding(mesh, jax.P(None, "x"))
    with jax.set_mesh(mesh):
        rest = REST(*(jax.device_put(a, spread) for a in (g, w)))
    assert rest.sharding.spec == spread.spec
    np.testing.assert_allclose(rest, oracle(g, w), atol=1e-5)


def test_gradients_of_another_shape_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(AssertionError, match="shape"):
        orthogonal_gradient({"w": jnp.ones(2)}, {"w": jnp.ones((2, 1))})


@pytest.mark.optimized
@given(MATRIX, MATRIX)
def test_the_logit_gradient_loses_its_part_along_each_row(logits, cotangent):
    value, pull = PULL(logits, cotangent)
    np.testing.assert_array_equal(value, logits)
    exact = np.stack([oracle(g, x) for g, x in zip(cotangent, logits, strict=True)])
    room = 8 * EPS * max(np.linalg.norm(np.float64(cotangent)), 1e-30)
    np.testing.assert_allclose(pull, exact, rtol=0, atol=room)


@jax.jit
def PULL(logits, cotangent):
    value, pull = jax.vjp(orthogonal_logits, logits)
    return value, pull(cotangent)[0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_goes_before_any_loss_in_any_dtype(dtype):
    logits = np.asarray([[3.0, 1.0, -1.0]], dtype)
    loss = lambda x: stablemax_cross_entropy(orthogonal_logits(x), jnp.array([0]))
    plain = functools.partial(stablemax_cross_entropy, labels=jnp.array([0]))
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits)
    learn = jax.jit(jax.value_and_grad(plain))
    np.testing.assert_allclose(value, learn(logits)[0], rtol=1e-6)
    assert gradient.dtype == dtype
    exact = oracle(learn(logits.astype(np.float32))[1], logits)
    np.testing.assert_allclose(
        np.float64(gradient), exact, atol=float(jnp.finfo(dtype).eps)
    )


def test_rows_of_zeros_and_rows_that_are_not_finite_pass_their_gradient():
    logits = jnp.array([[0.0, 0.0], [jnp.nan, 1.0], [-jnp.inf, 1.0]])
    cotangent = np.arange(6, dtype=np.float32).reshape(3, 2)
    np.testing.assert_array_equal(PULL(logits, cotangent)[1], cotangent)


def test_a_masked_row_of_nan_stays_inert():
    logits = jnp.array([[jnp.nan, 0.0], [2.0, 1.0]])
    loss = lambda x: stablemax_cross_entropy(orthogonal_logits(x), jnp.array([-1, 0]))
    gradient = jax.jit(jax.grad(loss))(logits)
    assert gradient[0].tolist() == [0.0, 0.0]
    assert np.all(np.isfinite(gradient))
