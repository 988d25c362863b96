"""One weight per class, in every cross-entropy."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from stabjax.losses import (
    cross_entropy,
    cross_entropy_per_example,
    focal_loss,
    focal_loss_per_example,
    stablemax_cross_entropy,
    stablemax_cross_entropy_per_example,
)

MEANS = [cross_entropy, stablemax_cross_entropy, focal_loss]
PER_EXAMPLE = [
    cross_entropy_per_example,
    stablemax_cross_entropy_per_example,
    focal_loss_per_example,
]
RNG = np.random.default_rng(0)
LOGITS = jnp.asarray(RNG.normal(0, 2, (6, 3)), jnp.float32)
LABELS = jnp.array([0, 1, 2, 2, 1, -1])
WEIGHTS = jnp.array([1.0, 6.0, 0.0])


@pytest.mark.parametrize("losses_of", PER_EXAMPLE)
def test_each_loss_and_gradient_is_multiplied_by_the_weight_of_its_label(losses_of):
    factor = np.array([1.0, 6.0, 0.0, 0.0, 6.0, 0.0])
    plain, pull = jax.vjp(lambda x: losses_of(x, LABELS), LOGITS)
    weighed, pull_weighed = jax.vjp(
        lambda x: losses_of(x, LABELS, class_weights=WEIGHTS), LOGITS
    )
    np.testing.assert_allclose(weighed, factor * plain, rtol=1e-6)
    ones = jnp.ones(6)
    expected = factor[:, None] * pull(ones)[0]
    np.testing.assert_allclose(pull_weighed(ones)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("loss_of", MEANS)
def test_the_mean_divides_by_the_positions_and_not_by_their_weights(loss_of):
    one_class = jnp.ones(6, jnp.int32)
    ratio = loss_of(LOGITS, one_class, class_weights=WEIGHTS) / loss_of(
        LOGITS, one_class
    )
    np.testing.assert_allclose(ratio, 6.0, rtol=1e-6)


@pytest.mark.parametrize("loss_of", MEANS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_weights_of_one_change_nothing_in_any_dtype(loss_of, dtype):
    weighed = functools.partial(loss_of, class_weights=jnp.ones(3, dtype))
    ours = jax.jit(weighed)(LOGITS, LABELS)
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, loss_of(LOGITS, LABELS), rtol=1e-6)


@pytest.mark.parametrize("loss_of", MEANS)
def test_weights_carry_no_gradient(loss_of):
    gradient = jax.grad(lambda w: loss_of(LOGITS, LABELS, class_weights=w))(WEIGHTS)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("losses_of", PER_EXAMPLE)
def test_a_weight_hides_neither_nan_nor_a_label_out_of_range(losses_of):
    logits = LOGITS.at[2, 0].set(jnp.nan)
    labels = LABELS.at[0].set(3)
    losses = losses_of(logits, labels, class_weights=WEIGHTS)
    expected = [True, False, True, False, False, False]
    assert np.isnan(np.asarray(losses)).tolist() == expected


@pytest.mark.parametrize("loss_of", MEANS)
def test_another_number_of_weights_than_classes_is_refused(loss_of, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(AssertionError, match="shape"):
        loss_of(LOGITS, LABELS, class_weights=jnp.ones(2))
