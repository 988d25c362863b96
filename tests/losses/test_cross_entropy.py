"""Cross-entropy against float64, in its tails, and where it is masked."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax import losses as of

cross_entropy = jax.jit(of.cross_entropy, static_argnames="ignore_label")
cross_entropy_per_example = jax.jit(of.cross_entropy_per_example)
LEARN = jax.jit(jax.value_and_grad(of.cross_entropy))
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
ROWS, CLASSES = 4, 5
LOGITS = hnp.arrays(
    np.float32, (ROWS, CLASSES), elements=st.floats(-80.0, 80.0, width=32)
)
LABELS = hnp.arrays(np.int32, ROWS, elements=st.integers(0, CLASSES - 1))


def oracle(logits, labels):
    """Return losses and their gradient in float64, exact for a sure prediction."""
    logits = np.asarray(logits, np.float64)
    hot = np.eye(logits.shape[1], dtype=bool)[labels]
    excess = np.where(hot, -np.inf, logits - logits[hot][:, None])
    top = np.maximum(excess.max(1), 0.0)
    total = np.exp(excess - top[:, None]).sum(1)
    losses = np.where(top > 0, top + np.log(total + np.exp(-top)), np.log1p(total))
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    rest = np.where(hot, 0.0, softmax).sum(1, keepdims=True)
    return losses, np.where(hot, -rest, softmax)


@jax.jit
def PULL(logits, labels):
    value, pull = jax.vjp(lambda x: of.cross_entropy_per_example(x, labels), logits)
    return value, pull(jnp.ones(ROWS))[0]


@pytest.mark.optimized
@given(LOGITS, LABELS)
def test_losses_and_gradients_match_float64_to_their_own_size(logits, labels):
    value, pull = PULL(logits, labels)
    losses, gradient = oracle(logits, labels)
    np.testing.assert_allclose(value, losses, rtol=2e-5, atol=1.2e-38)
    np.testing.assert_allclose(pull, gradient, rtol=2e-5, atol=1.2e-38)


@pytest.mark.parametrize("dtype", DTYPES)
def test_half_precision_logits_are_computed_in_float32(dtype, assert_ulps):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(0, 3, (64, 10)), dtype)
    labels = rng.integers(0, 10, 64)
    loss = cross_entropy(logits, labels.astype(np.int32))
    assert loss.dtype == jnp.float32
    assert_ulps(loss, oracle(logits, labels)[0].mean(), 32)


def test_a_sure_and_right_prediction_keeps_its_tiny_loss_and_gradient():
    logits = jnp.array([[60.0, 0.0]])
    loss, gradient = LEARN(logits, jnp.array([0]))
    np.testing.assert_allclose(loss, np.exp(-60.0), rtol=1e-5)
    np.testing.assert_allclose(gradient, [[-np.exp(-60), np.exp(-60)]], rtol=1e-5)


def test_a_sure_and_wrong_prediction_costs_the_distance_and_pulls_fully():
    logits = jnp.array([[1e30, 0.0], [3e4, -3e4]])
    losses = cross_entropy_per_example(logits, jnp.array([1, 1]))
    np.testing.assert_allclose(losses, [1e30, 6e4], rtol=1e-6)
    gradient = LEARN(logits, jnp.array([1, 1]))[1]
    np.testing.assert_allclose(gradient, [[0.5, -0.5]] * 2, rtol=1e-6)


def test_equal_logits_cost_the_logarithm_of_the_classes():
    for level in (0.0, -1e38, 1e38):
        logits = np.full((3, 10), level, np.float32)
        loss = cross_entropy(logits, jnp.array([0, 4, 9]))
        np.testing.assert_allclose(loss, np.log(10), rtol=1e-6)


def test_an_impossible_class_has_no_part_in_loss_or_gradient():
    logits = jnp.array([[0.0, -jnp.inf, 0.0]])
    loss, gradient = LEARN(logits, jnp.array([0]))
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    np.testing.assert_allclose(gradient, [[-0.5, 0.0, 0.5]], rtol=1e-6)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("label", [-1, 2, 255])
def test_a_masked_position_is_inert_whatever_it_holds(poison, label):
    logits = np.float32([[1.0, 2.0], [poison, 0.0], [0.5, 0.0]])
    labels, mask = np.int32([0, label, 1]), np.array([True, False, True])
    both = LEARN(logits, labels, mask=mask)
    kept = LEARN(logits[::2], labels[::2])
    np.testing.assert_array_equal(both[0], kept[0])
    np.testing.assert_array_equal(both[1], np.insert(kept[1], 1, 0.0, axis=0))


def test_the_ignore_label_masks_like_the_mask():
    logits, labels = np.float32([[1.0, 2.0], [np.nan, 0.0]]), np.int32([0, -100])
    loss = cross_entropy(logits, labels, ignore_label=-100)
    np.testing.assert_array_equal(loss, cross_entropy(logits[:1], labels[:1]))


@pytest.mark.parametrize("label", [-2, 2, 100])
def test_a_label_out_of_range_that_counts_is_loud(label):
    logits = np.zeros((2, 2), np.float32)
    losses = cross_entropy_per_example(logits, jnp.array([0, label]))
    assert np.isnan(np.asarray(losses)).tolist() == [False, True]


def test_nothing_to_learn_from_gives_zero_and_no_gradient():
    logits, labels = np.full((2, 3), np.nan, np.float32), jnp.array([-1, -1])
    loss, gradient = LEARN(logits, labels)
    assert float(loss) == 0.0
    np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


def test_labels_may_be_bytes_and_the_batch_may_have_any_rank():
    logits = np.random.default_rng(3).normal(size=(2, 3, 3, 10)).astype(np.float32)
    labels = np.full((2, 3, 3), 7, np.uint8)
    losses = cross_entropy_per_example(logits, labels)
    assert losses.shape == (2, 3, 3)
    flat = oracle(logits.reshape(18, 10), np.full(18, 7))[0]
    np.testing.assert_allclose(losses.reshape(18), flat, rtol=1e-5)
    assert cross_entropy(logits[0, 0, 0], labels[0, 0, 0]).shape == ()


def test_labels_that_would_broadcast_are_refused(monkeypatch):
    # As users run it: without the type checker that the tests switch on.
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(AssertionError, match="shape"):
        cross_entropy(jnp.zeros((4, 3)), jnp.zeros((4, 1), jnp.int32))
