"""Cross-entropy that turns to what is not yet learned."""

import functools
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from stabjax.losses._cross_entropy import (
    cross_entropy_per_example,
    valid_positions,
    weigh_classes,
)
from stabjax.losses._stablemax import stablemax_cross_entropy_per_example
from stabjax.numerics import masked_mean
from stabjax.numerics._check import check_range

_CROSS_ENTROPIES = {
    "softmax": cross_entropy_per_example,
    "stablemax": stablemax_cross_entropy_per_example,
}


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _focus(entropy: Array, gamma: float) -> Array:
    # 1 - p of the label, without the cancellation of p near one.
    return jnp.power(-jnp.expm1(-entropy), gamma) * entropy


@_focus.defjvp
def _focus_jvp(gamma: float, primals: tuple, tangents: tuple) -> tuple:
    # (1 - p)**(gamma - 1) has a pole at p = 1 for gamma < 1; entropy / (1 - p) has
    # the limit one there.
    (entropy,) = primals
    rest = -jnp.expm1(-entropy)
    none = rest == 0
    ratio = jnp.where(none, 1.0, entropy / jnp.where(none, 1.0, rest))
    slope = jnp.power(rest, gamma) * (1.0 + gamma * jnp.exp(-entropy) * ratio)
    return _focus(entropy, gamma), slope * tangents[0]


def focal_loss_per_example(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    gamma: float = 2.0,
    link: Literal["softmax", "stablemax"] = "softmax",
    mask: Bool[Array, "*batch"] | None = None,
    ignore_label: int = -1,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the focal loss of each position, zero where it is masked out.

    ``-(1 - p)**gamma * log(p)`` with p the probability of the label, times the weight
    of the label.

    Args:
        logits: Unnormalized log-probabilities [nat], up to 1e38; for
            ``link="stablemax"`` any finite size.
        labels: Class indices, [0, classes).
        gamma: How far what is learned recedes, dimensionless, [0, 1e30]; 0 is the
            cross-entropy.
        link: How logits become probabilities: the softmax, or `stablemax`.
        mask: The positions that count; all by default.
        ignore_label: A label that marks a position as masked out as well.
        class_weights: One factor per class, >= 0, dimensionless; all one by default.

    Returns:
        Losses [nat], float32 (float64 for float64 logits). NaN where a position that
        counts holds a NaN or a label out of range.

    Raises:
        ValueError: If ``gamma`` is outside its range or ``link`` is neither.
        AssertionError: If the labels have another shape than the positions, or if
            there is not one weight per class.

    Gradient:
        That of the cross-entropy, times the weight of the label and
        ``(1 - p)**gamma * (1 - gamma * p * log(p) / (1 - p))``. Finite at p = 1 for
        gamma below one too, where the textbook form has a pole.

    Source:
        Lin et al. (2017), arXiv:1708.02002.

    Example:
        >>> logits, labels = jnp.array([[0.0, 0.0], [9.0, 0.0]]), jnp.array([0, 0])
        >>> losses = focal_loss_per_example(logits, labels)
        >>> round(float(losses[0]), 4), float(losses[1]) < 1e-11
        (0.1733, True)
    """
    check_range("focal_loss", "gamma", gamma, low=0.0)
    if link not in _CROSS_ENTROPIES:
        raise ValueError(
            f"focal_loss: link must be 'softmax' or 'stablemax', got {link!r}."
        )
    if class_weights is not None:
        chex.assert_shape(class_weights, logits.shape[-1:])
    entropies = _CROSS_ENTROPIES[link](
        logits, labels, mask=mask, ignore_label=ignore_label
    )
    valid = valid_positions(logits, labels, mask, ignore_label)
    return weigh_classes(_focus(entropies, gamma), labels, valid, class_weights)


def focal_loss(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    gamma: float = 2.0,
    link: Literal["softmax", "stablemax"] = "softmax",
    mask: Bool[Array, "*batch"] | None = None,
    ignore_label: int = -1,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Return the mean focal loss over the positions that count.

    ``mean(-(1 - p)**gamma * log(p))``, see `focal_loss_per_example`; zero if no
    position counts.

    Args:
        logits: Unnormalized log-probabilities [nat].
        labels: Class indices, [0, classes).
        gamma: How far what is learned recedes, dimensionless, [0, 1e30].
        link: How logits become probabilities: the softmax, or `stablemax`.
        mask: The positions that count; all by default.
        ignore_label: A label that marks a position as masked out as well.
        class_weights: One factor per class, >= 0, dimensionless. The mean divides by
            the number of positions, as in `cross_entropy`.

    Returns:
        The loss [nat], float32 (float64 for float64 logits). NaN if a position that
        counts has a NaN in its logits or a label out of range.

    Raises:
        ValueError: If ``gamma`` is outside its range or ``link`` is neither.
        AssertionError: If the labels have another shape than the positions, or if
            there is not one weight per class.

    Gradient:
        That of `focal_loss_per_example` over the number of positions that count.

    Source:
        Lin et al. (2017), arXiv:1708.02002.

    Example:
        >>> loss = focal_loss(jnp.array([[0.0, 0.0]]), jnp.array([0]), gamma=2.0)
        >>> round(float(loss), 4)
        0.1733
    """
    losses = focal_loss_per_example(
        logits,
        labels,
        gamma=gamma,
        link=link,
        mask=mask,
        ignore_label=ignore_label,
        class_weights=class_weights,
    )
    return masked_mean(losses, valid_positions(logits, labels, mask, ignore_label))
