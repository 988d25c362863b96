"""Cross-entropy of integer labels, exact in its tails and inert where masked."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from stabjax.numerics import masked_mean
from stabjax.numerics._precision import widen


def tail(logits: Array) -> tuple[Array, Array]:
    """Return the logits relative to the largest one and the sum of the others' exp.

    Leaving the largest out makes ``log1p`` of the sum exact for a sure prediction,
    where ``log(1 + sum)`` rounds to zero.
    """
    top = jnp.argmax(logits, axis=-1, keepdims=True)
    relative = logits - jnp.max(logits, axis=-1, keepdims=True)
    others = jax.lax.broadcasted_iota(top.dtype, logits.shape, logits.ndim - 1) != top
    return relative, jnp.sum(jnp.where(others, jnp.exp(relative), 0.0), axis=-1)


def _hot(logits: Array, labels: Array) -> Array:
    classes = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
    return classes == labels[..., None]


@jax.custom_jvp
def _negative_log_likelihood(logits: Array, labels: Array) -> Array:
    relative, others = tail(logits)
    chosen = jnp.sum(jnp.where(_hot(logits, labels), relative, 0.0), axis=-1)
    return jnp.log1p(others) - chosen


@_negative_log_likelihood.defjvp
def _negative_log_likelihood_jvp(primals: tuple, tangents: tuple) -> tuple:
    # softmax - onehot, where 1 - p of the label is summed from the other classes.
    logits, labels = primals
    relative, others = tail(logits)
    softmax = jnp.exp(relative) / (1.0 + others)[..., None]
    hot = _hot(logits, labels)
    rest = jnp.sum(jnp.where(hot, 0.0, softmax), axis=-1, keepdims=True)
    slope = jnp.where(hot, -rest, softmax)
    return _negative_log_likelihood(*primals), jnp.sum(slope * tangents[0], axis=-1)


def valid_positions(
    logits: Array, labels: Array, mask: Array | None, ignore_label: int
) -> Array:
    """Return which positions count."""
    # Checked while tracing: labels of shape (batch, 1) would broadcast in silence.
    chex.assert_shape(labels, logits.shape[:-1])
    valid = labels.astype(jnp.int32) != ignore_label
    return valid if mask is None else valid & mask


def inert(logits: Array, valid: Array) -> Array:
    """Return the logits in float32 or wider, zero at positions that do not count.

    To be done before the first operation: 0 * NaN in the backward pass is NaN.
    """
    return jnp.where(valid[..., None], widen(logits), 0.0)


def weigh_classes(
    losses: Array, labels: Array, valid: Array, class_weights: Array | None
) -> Array:
    """Multiply each loss that counts by the weight of its label."""
    if class_weights is None:
        return losses
    weights = jax.lax.stop_gradient(class_weights).astype(losses.dtype)
    weights = jnp.broadcast_to(weights, (*labels.shape, *weights.shape))
    hot = _hot(weights, labels.astype(jnp.int32))
    chosen = jnp.sum(jnp.where(hot, weights, 0.0), axis=-1)
    return jnp.where(valid, chosen * losses, 0.0)


def cross_entropy_per_example(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
    ignore_label: int = -1,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the cross-entropy of each position, zero where it is masked out.

    ``log(sum(exp(logits))) - logits[label]``, times the weight of the label.

    Args:
        logits: Unnormalized log-probabilities [nat], any size up to 1e38. An entry
            of -inf is a class that cannot be; it must not be the label.
        labels: Class indices, [0, classes).
        mask: The positions that count; all by default.
        ignore_label: A label that marks a position as masked out as well.
        class_weights: One factor per class, >= 0, dimensionless; all one by default.

    Returns:
        Losses [nat], float32 (float64 for float64 logits). A NaN in the logits of a
        position that counts makes its loss NaN, and so does a label out of range:
        neither is dropped in silence. Where masked out, anything goes.

    Raises:
        AssertionError: If the labels have another shape than the positions, or if
            there is not one weight per class.

    Gradient:
        ``softmax(logits) - onehot(label)``, times the weight of the label; zero where
        masked out. None with respect to the weights.

    Source:
        Own; relatively exact also for a loss of 1e-30.

    Example:
        >>> logits = jnp.array([[0.0, 0.0], [jnp.nan, 0.0]])
        >>> losses = cross_entropy_per_example(logits, jnp.array([1, -1]))
        >>> [round(x, 4) for x in losses.tolist()]
        [0.6931, 0.0]
    """
    valid = valid_positions(logits, labels, mask, ignore_label)
    if class_weights is not None:
        chex.assert_shape(class_weights, logits.shape[-1:])
    labels = labels.astype(jnp.int32)
    loss = _negative_log_likelihood(inert(logits, valid), labels)
    in_range = (labels >= 0) & (labels < logits.shape[-1])
    losses = jnp.where(valid, jnp.where(in_range, loss, jnp.nan), 0.0)
    return weigh_classes(losses, labels, valid, class_weights)


def cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
    ignore_label: int = -1,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Return the mean cross-entropy over the positions that count.

    ``mean(log(sum(exp(logits))) - logits[label])`` over positions that ``mask``
    holds and whose label is not ``ignore_label``; zero if there is none. With
    ``class_weights`` each term is multiplied by the weight of its label.

    Args:
        logits: Unnormalized log-probabilities [nat], any size up to 1e38.
        labels: Class indices, [0, classes).
        mask: The positions that count; all by default.
        ignore_label: A label that marks a position as masked out as well.
        class_weights: One factor per class, >= 0, dimensionless; all one by default.
            The mean still divides by the number of positions, not by the sum of
            their weights: that would undo the weighting where a batch holds one
            class.

    Returns:
        The loss [nat], float32 (float64 for float64 logits). NaN if a position that
        counts has a NaN in its logits or a label out of range.

    Raises:
        AssertionError: If the labels have another shape than the positions, or if
            there is not one weight per class.

    Gradient:
        ``(softmax(logits) - onehot(label)) / n``, times the weight of the label, over
        the n positions that count; zero elsewhere, whatever stands there. None with
        respect to the weights.

    Source:
        Own.

    Example:
        >>> logits = jnp.array([[0.0, 0.0], [jnp.nan, 0.0]])
        >>> mask = jnp.array([True, False])
        >>> round(float(cross_entropy(logits, jnp.array([1, 0]), mask=mask)), 4)
        0.6931
    """
    losses = cross_entropy_per_example(
        logits,
        labels,
        mask=mask,
        ignore_label=ignore_label,
        class_weights=class_weights,
    )
    return masked_mean(losses, valid_positions(logits, labels, mask, ignore_label))
