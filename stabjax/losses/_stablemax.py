"""Stablemax: probabilities that grow with the logits, not with their exponential.

``s(x) = x + 1`` for x >= 0 and ``1 / (1 - x)`` below, hence ``log s(x) = symlog(x)``:
everything here is the softmax of `symlog`. The usual form with both branches and a
select has a NaN gradient in float32 and bfloat16 where a logit is exactly one, which
is where the branch that is not taken divides by zero.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from stabjax.losses._cross_entropy import (
    cross_entropy_per_example,
    inert,
    tail,
    valid_positions,
)
from stabjax.losses._symlog import symlog
from stabjax.numerics import masked_mean
from stabjax.numerics._precision import widen


@jax.custom_jvp
def _log_softmax(scores: Array) -> Array:
    relative, others = tail(scores)
    return relative - jnp.log1p(others)[..., None]


@_log_softmax.defjvp
def _log_softmax_jvp(primals: tuple, tangents: tuple) -> tuple:
    relative, others = tail(primals[0])
    softmax = jnp.exp(relative) / (1.0 + others)[..., None]
    mean = jnp.sum(softmax * tangents[0], axis=-1, keepdims=True)
    return _log_softmax(*primals), tangents[0] - mean


def stablemax(
    logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch classes"]:
    """Turn logits into probabilities without an exponential.

    ``s(x) / sum(s(x))`` with ``s(x) = x + 1`` for x >= 0 and ``1 / (1 - x)`` below.
    To be sure it needs large logits: 0.999 against nine classes takes +-94.

    Args:
        logits: Any finite floats; -inf is a class that cannot be.

    Returns:
        Probabilities in the dtype of ``logits``. NaN if a logit of the row is.

    Gradient:
        ``p_k (delta_jk - p_j) / (1 + |x_j|)``, at zero and at one too.

    Source:
        Prieto et al. (2025), arXiv:2501.04697.

    Example:
        >>> [round(p, 4) for p in stablemax(jnp.array([1.0, 0.0, -1.0])).tolist()]
        [0.5714, 0.2857, 0.1429]
    """
    return jax.nn.softmax(symlog(widen(logits)), axis=-1).astype(logits.dtype)


def log_stablemax(
    logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch classes"]:
    """Return the logarithm of `stablemax`, exact in its tails.

    ``symlog(x) - log(sum(exp(symlog(x))))``.

    Args:
        logits: Any finite floats; -inf is a class that cannot be.

    Returns:
        Log-probabilities [nat] in the dtype of ``logits``, never below -182 for
        finite float32 logits of fewer than 100 classes. NaN if a logit of the row is.

    Gradient:
        ``(delta_jk - p_j) / (1 + |x_j|)``.

    Source:
        Prieto et al. (2025), arXiv:2501.04697.

    Example:
        >>> log_p = log_stablemax(jnp.array([3e38, -3e38]))
        >>> round(float(log_p[1]), 2)
        -177.19
    """
    return _log_softmax(symlog(widen(logits))).astype(logits.dtype)


def stablemax_cross_entropy_per_example(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
    ignore_label: int = -1,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, "*batch"]:
    """Return the stablemax cross-entropy of each position, zero where masked out.

    ``-log(s(x_label) / sum(s(x)))``, times the weight of the label.

    Args:
        logits: Any finite floats; -inf is a class that cannot be, and must not be
            the label.
        labels: Class indices, [0, classes).
        mask: The positions that count; all by default.
        ignore_label: A label that marks a position as masked out as well.
        class_weights: One factor per class, >= 0, dimensionless; all one by default.

    Returns:
        Losses [nat], float32 (float64 for float64 logits). A confident error costs
        only the logarithm of the logits: 8.9 at (+80, -90), where softmax costs 170.
        NaN where a position that counts holds a NaN or a label out of range. The
        relative error of a loss above 1e-36 is that of two symlogs of size S, about
        ``2e-7 (1 + S)``: 1e-6 for logits up to 100, 2e-5 at 3e38.

    Raises:
        AssertionError: If the labels have another shape than the positions, or if
            there is not one weight per class.

    Gradient:
        ``(p - onehot(label)) / (1 + |x|)``, times the weight of the label; zero where
        masked out. Finite at every finite logit, in bfloat16 too.

    Source:
        Prieto et al. (2025), arXiv:2501.04697; without float64.

    Example:
        >>> logits = jnp.array([[1.0, 0.0], [jnp.nan, 0.0]])
        >>> losses = stablemax_cross_entropy_per_example(logits, jnp.array([0, -1]))
        >>> [round(x, 4) for x in losses.tolist()]
        [0.4055, 0.0]
    """
    valid = valid_positions(logits, labels, mask, ignore_label)
    return cross_entropy_per_example(
        symlog(inert(logits, valid)),
        labels,
        mask=mask,
        ignore_label=ignore_label,
        class_weights=class_weights,
    )


def stablemax_cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Integer[Array, "*batch"],
    *,
    mask: Bool[Array, "*batch"] | None = None,
    ignore_label: int = -1,
    class_weights: Float[Array, " classes"] | None = None,
) -> Float[Array, ""]:
    """Return the mean stablemax cross-entropy over the positions that count.

    ``mean(-log(s(x_label) / sum(s(x))))``, see `stablemax_cross_entropy_per_example`;
    zero if no position counts.

    Args:
        logits: Any finite floats.
        labels: Class indices, [0, classes).
        mask: The positions that count; all by default.
        ignore_label: A label that marks a position as masked out as well.
        class_weights: One factor per class, >= 0, dimensionless. The mean divides by
            the number of positions, as in `cross_entropy`.

    Returns:
        The loss [nat], float32 (float64 for float64 logits). NaN if a position that
        counts has a NaN in its logits or a label out of range.

    Raises:
        AssertionError: If the labels have another shape than the positions, or if
            there is not one weight per class.

    Gradient:
        ``(p - onehot(label)) / (1 + |x|) / n``, times the weight of the label, over
        the n positions that count; zero elsewhere.

    Source:
        Prieto et al. (2025), arXiv:2501.04697; without float64.

    Example:
        >>> loss = stablemax_cross_entropy(jnp.array([[1.0, 0.0]]), jnp.array([0]))
        >>> round(float(loss), 4)
        0.4055
    """
    losses = stablemax_cross_entropy_per_example(
        logits,
        labels,
        mask=mask,
        ignore_label=ignore_label,
        class_weights=class_weights,
    )
    return masked_mean(losses, valid_positions(logits, labels, mask, ignore_label))
