"""One weight per class, in every cross-entropy."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from stabjax import losses

MEANS = [
    jax.jit(losses.cross_entropy),
    jax.jit(losses.stablemax_cross_entropy),
    jax.jit(losses.focal_loss),
]
PER_EXAMPLE = [
    jax.jit(losses.cross_entropy_per_example),
    jax.jit(losses.stablemax_cross_entropy_per_example),
    jax.jit(losses.focal_loss_per_example),
]
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(0, 2, (6, 3)).astype(np.float32)
LABELS = np.int32([0, 1, 2, 2, 1, -1])
WEIGHTS = np.float32([1.0, 6.0, 0.0])


@pytest.mark.parametrize("losses_of", PER_EXAMPLE)
def test_each_loss_and_gradient_is_multiplied_by_the_weight_of_its_label(losses_of):
    factor = np.array([1.0, 6.0, 0.0, 0.0, 6.0, 0.0])

    @jax.jit
    def learn(logits, **weights):
        value, pull = jax.vjp(lambda x: losses_of(x, LABELS, **weights), logits)
        return value, pull(jnp.ones(6))[0]

    plain, slope = map(np.asarray, learn(LOGITS))
    weighed, weighed_slope = learn(LOGITS, class_weights=WEIGHTS)
    np.testing.assert_allclose(weighed, factor * plain, rtol=1e-6)
    np.testing.assert_allclose(weighed_slope, factor[:, None] * slope, rtol=1e-6)


@pytest.mark.parametrize("loss_of", MEANS)
def test_the_mean_divides_by_the_positions_and_not_by_their_weights(loss_of):
    one_class = np.ones(6, np.int32)
    ratio = loss_of(LOGITS, one_class, class_weights=WEIGHTS) / loss_of(
        LOGITS, one_class
    )
    np.testing.assert_allclose(ratio, 6.0, rtol=1e-6)


@pytest.mark.parametrize("loss_of", MEANS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_weights_of_one_change_nothing_in_any_dtype(loss_of, dtype):
    ours = loss_of(LOGITS, LABELS, class_weights=np.ones(3, dtype))
    assert ours.dtype == jnp.float32
    np.testing.assert_allclose(ours, loss_of(LOGITS, LABELS), rtol=1e-6)


@pytest.mark.parametrize("loss_of", MEANS)
def test_weights_carry_no_gradient(loss_of):
    by_weights = jax.grad(lambda w: loss_of(LOGITS, LABELS, class_weights=w))
    gradient = jax.jit(by_weights)(WEIGHTS)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("losses_of", PER_EXAMPLE)
def test_a_weight_hides_neither_nan_nor_a_label_out_of_range(losses_of):
    logits, labels = LOGITS.copy(), LABELS.copy()
    logits[2, 0], labels[0] = np.nan, 3
    each = losses_of(logits, labels, class_weights=WEIGHTS)
    expected = [True, False, True, False, False, False]
    assert np.isnan(np.asarray(each)).tolist() == expected


@pytest.mark.parametrize("loss_of", MEANS)
def test_another_number_of_weights_than_classes_is_refused(loss_of, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(AssertionError, match="shape"):
        loss_of(LOGITS, LABELS, class_weights=jnp.ones(2))
