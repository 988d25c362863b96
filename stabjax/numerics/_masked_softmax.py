"""The softmax over the entries that count, also where none does."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.numerics._precision import widen


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _softmax(logits: Array, key: Array, axis: int) -> Array:
    among = jnp.where(key, logits, -jnp.inf)
    top = jnp.max(among, axis=axis, keepdims=True, initial=-jnp.inf)
    # What does not count stands at the top, so that no exponential overflows.
    exponentials = jnp.exp(jnp.where(key, logits - top, jnp.zeros_like(logits)))
    weights = jnp.where(key, exponentials, jnp.zeros_like(logits))
    total = jnp.sum(weights, axis=axis, keepdims=True)
    # At least one where there is a key; False for NaN, so NaN stays.
    return weights / jnp.where(total == 0, jnp.ones_like(total), total)


@_softmax.defjvp
def _softmax_jvp(axis: int, primals: tuple, tangents: tuple) -> tuple:
    _, key, *_ = primals
    weights = _softmax(*primals, axis)
    # A select on both sides, for what is masked out is not multiplied by its zero.
    change = jnp.where(key, tangents[0], jnp.zeros_like(weights))
    mean = jnp.sum(weights * change, axis=axis, keepdims=True)
    tangent = weights * (change - mean)
    return weights, jnp.where(key, tangent, jnp.zeros_like(weights))


def masked_softmax(
    logits: Float[Array, "*shape"],
    mask: Bool[Array, "..."] | None = None,
    *,
    axis: int = -1,
) -> Float[Array, "*shape"]:
    """Take the softmax over the entries that count; a row without one gives zeros.

    ``exp(x) / sum(exp(x[mask]))`` where ``mask`` holds, zero elsewhere. Entries that
    are masked out are selected away, so a NaN or an infinity there changes neither
    the value nor the gradient. A row with no entry left, such as an attention query
    without a key, sums to zero and not to one.

    Args:
        logits: Any finite floats; -inf is an entry that is masked out.
        mask: The entries that count, of a shape that broadcasts to that of
            ``logits``; all by default.
        axis: The axis to sum over.

    Returns:
        Weights in the dtype of ``logits``. NaN where an entry of the row that counts
        is NaN or +inf.

    Raises:
        ValueError: If ``mask`` does not broadcast to the shape of ``logits``.

    Gradient:
        ``p_k (delta_jk - p_j)`` over the entries that count. Zero where masked out
        and for a row without an entry, even if the gradient that comes back to there
        is not finite.

    Source:
        Own.

    Example:
        >>> logits = jnp.array([[0.0, jnp.nan], [jnp.inf, jnp.nan]])
        >>> masked_softmax(logits, jnp.array([[True, False], [False, False]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    wide = widen(logits)
    key = wide != -jnp.inf  # True for NaN, so NaN stays
    if mask is not None:
        _check_shape(mask.shape, logits.shape)
        key &= jnp.broadcast_to(mask, logits.shape)
    return _softmax(wide, key, axis).astype(logits.dtype)


def _check_shape(mask: tuple[int, ...], logits: tuple[int, ...]) -> None:
    ends = zip(reversed(mask), reversed(logits), strict=False)
    if len(mask) > len(logits) or any(m not in (1, n) for m, n in ends):
        raise ValueError(
            "masked_softmax: mask must broadcast to the shape of logits, "
            f"{logits}, got {mask}."
        )
