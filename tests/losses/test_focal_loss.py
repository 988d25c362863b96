"""The focal loss against float64, at its pole, and with both links."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import (
    cross_entropy,
    focal_loss,
    focal_loss_per_example,
    stablemax_cross_entropy,
)

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
LINKS = {"softmax": cross_entropy, "stablemax": stablemax_cross_entropy}
GAMMAS = (0.0, 0.5, 1.0, 2.0)
ROWS, CLASSES = 4, 5
LOGITS = hnp.arrays(np.float32, (ROWS, CLASSES), elements=st.floats(-40, 40, width=32))
LABELS = hnp.arrays(np.int32, ROWS, elements=st.integers(0, CLASSES - 1))


@functools.partial(jax.jit, static_argnames=("gamma", "link"))
def learn(logits, labels, gamma, link):
    loss = functools.partial(focal_loss, gamma=gamma, link=link)
    return jax.value_and_grad(loss)(logits, labels)


def oracle(logits, labels, gamma, link):
    """Return the mean loss and its gradient in float64, from 1 - p and not p."""
    x = np.asarray(logits, np.float64)
    score = x if link == "softmax" else np.sign(x) * np.log1p(np.abs(x))
    inner = 1.0 if link == "softmax" else 1 / (1 + np.abs(x))
    hot = np.eye(x.shape[1], dtype=bool)[labels]
    weights = np.exp(score - score.max(1, keepdims=True))
    p = weights / weights.sum(1, keepdims=True)
    rest = np.where(hot, 0.0, p).sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.where(rest < 0.5, np.log1p(-rest), np.log(p[hot]))
        bend = np.where(rest > 0, -gamma * p[hot] * log_p / rest, gamma)
    outer = rest**gamma * (1 + bend)
    slope = outer[:, None] * np.where(hot, -rest[:, None], p) * inner
    return np.mean(rest**gamma * -log_p), slope / len(x)


@pytest.mark.optimized
@pytest.mark.parametrize("link", LINKS)
@given(logits=LOGITS, labels=LABELS, gamma=st.sampled_from(GAMMAS))
def test_value_and_gradient_match_float64(logits, labels, gamma, link):
    value, gradient = learn(logits, labels, gamma, link)
    loss, slope = oracle(logits, labels, gamma, link)
    np.testing.assert_allclose(value, loss, rtol=5e-5, atol=1.2e-38)
    np.testing.assert_allclose(gradient, slope, rtol=5e-5, atol=1.2e-38)


@pytest.mark.parametrize("link", LINKS)
def test_gamma_zero_is_the_cross_entropy(link):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 3, (16, 5)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 5, 16), jnp.int32)
    plain = jax.jit(jax.value_and_grad(LINKS[link]))(logits, labels)
    focal = learn(logits, labels, 0.0, link)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), focal, plain)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("link", LINKS)
def test_half_precision_logits_are_computed_in_float32(dtype, link, assert_ulps):
    rng = np.random.default_rng(1)
    logits = jnp.asarray(rng.normal(0, 3, (64, 5)), dtype)
    labels = jnp.asarray(rng.integers(0, 5, 64), jnp.int32)
    value, gradient = learn(logits, labels, 2.0, link)
    assert value.dtype == jnp.float32
    assert gradient.dtype == dtype
    assert_ulps(value, oracle(logits, labels, 2.0, link)[0], 32)


@pytest.mark.parametrize("gamma", [1e-3, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("top", [20.0, 100.0, 1e38])
def test_a_sure_and_right_prediction_has_no_pole(gamma, top):
    logits, labels = jnp.array([[top, 0.0]]), jnp.array([0])
    value, gradient = learn(logits, labels, gamma, "softmax")
    assert 0.0 <= float(value) < 1e-8
    assert np.all(np.abs(gradient) < 1e-8)
    textbook = lambda x: (1 - jnp.exp(jax.nn.log_softmax(x)[0, 0])) ** gamma
    if gamma < 1.0:
        assert not np.all(np.isfinite(jax.grad(textbook)(logits)))


@pytest.mark.parametrize("gamma", GAMMAS)
def test_a_sure_and_right_prediction_keeps_its_tiny_loss(gamma):
    logits, labels = jnp.array([[20.0, 0.0]]), jnp.array([0])
    value, gradient = learn(logits, labels, gamma, "softmax")
    rest = np.exp(-20.0)
    np.testing.assert_allclose(value, rest ** (1 + gamma), rtol=1e-4)
    slope = (1 + gamma) * rest ** (1 + gamma)
    np.testing.assert_allclose(gradient, [[-slope, slope]], rtol=1e-4)


def test_a_sure_and_wrong_prediction_pulls_fully():
    logits = jnp.array([[1e30, 0.0]])
    value, gradient = learn(logits, jnp.array([1]), 2.0, "softmax")
    np.testing.assert_allclose(value, 1e30, rtol=1e-6)
    np.testing.assert_allclose(gradient, [[1.0, -1.0]], rtol=1e-6)


@pytest.mark.parametrize("link", LINKS)
def test_masked_rows_are_inert_and_nan_that_counts_is_loud(link):
    logits = jnp.array([[1.0, 2.0], [jnp.nan, 0.0], [jnp.nan, 1.0]])
    labels = jnp.array([0, -1, 1])
    losses = focal_loss_per_example(logits, labels, link=link)
    assert np.isnan(np.asarray(losses)).tolist() == [False, False, True]
    value, gradient = learn(logits[:2], labels[:2], 2.0, link)
    kept = learn(logits[:1], labels[:1], 2.0, link)
    np.testing.assert_allclose(value, kept[0], rtol=1e-6)
    np.testing.assert_allclose(gradient[:1], kept[1], rtol=1e-6)
    assert not np.any(gradient[1])


@pytest.mark.parametrize("gamma", [-0.5, np.nan, np.inf])
def test_a_gamma_out_of_range_is_refused(gamma):
    with pytest.raises(ValueError, match="focal_loss: gamma must be in"):
        focal_loss(jnp.zeros((1, 2)), jnp.array([0]), gamma=gamma)


def test_an_unknown_link_is_refused(monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="link must be 'softmax' or 'stablemax', got"):
        focal_loss(jnp.zeros((1, 2)), jnp.array([0]), link="stabelmax")
