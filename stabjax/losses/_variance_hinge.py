"""A price on features that have collapsed to a constant."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.losses._spread_mask import spread_mask
from stabjax.numerics import masked_mean, safe_std
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen


def _ramp(mask: Array) -> Array:
    """Return a centered unit vector along the rows that count, in their order."""
    place = jnp.cumsum(mask, axis=0).astype(jnp.float32)
    # One row is its own mean, and a vector without a length stays zero.
    middle = (1.0 + jnp.max(place, axis=0, keepdims=True, initial=0.0)) / 2
    centered = jnp.where(mask, place - middle, 0.0)
    size = jnp.sqrt(jnp.sum(centered * centered, axis=0, keepdims=True))
    return centered / jnp.where(size == 0, 1.0, size)


def _alive(deviation: Array, x: Array, mask: Array) -> Array:
    """Return ``deviation`` with a direction to grow in where it is zero."""
    counted = jnp.sum(mask, axis=0, dtype=jnp.int32).astype(x.dtype)
    # Zero in value, the ramp in its gradient.
    nothing = jnp.where(mask, x - jax.lax.stop_gradient(x), 0.0)
    apart = jnp.sum(_ramp(mask).astype(x.dtype) * nothing, axis=0)
    apart = apart / jnp.sqrt(jnp.maximum(counted - 1, 1.0))
    return jnp.where(deviation == 0, deviation + apart, deviation)


def variance_hinge(
    x: Float[Array, "batch *features"],
    *,
    target: float = 1.0,
    mask: Bool[Array, " batch"] | None = None,
) -> Float[Array, ""]:
    """Charge for features whose deviation over the batch is below ``target``.

    ``mean_j max(target - std_j, 0)`` with the sample formula (n - 1) over the rows
    that count. Nothing is added under the root: ``sqrt(variance + eps)`` as in VICReg
    has a slope that fades to zero on the last stretch before collapse, ``1/100`` of
    the full one at a deviation of 1e-4 with its ``eps = 1e-4``.

    Args:
        x: Any floats, rows of a batch.
        target: Deviation that is enough, in the unit of ``x``, [1.2e-38, 1e30].
        mask: The rows that count; all by default. NaN elsewhere is inert.

    Returns:
        The loss, float32 (float64 for a float64 input), in the unit of ``x``. Zero if
        no row counts. A single row has deviation zero: it costs ``target`` and has no
        gradient.

    Raises:
        ValueError: If ``target`` is outside its range, or if ``mask`` has another
            length than the batch.

    Gradient:
        ``-(x - mean) / ((n - 1) std_j)`` per feature, over their number: of length
        ``1 / sqrt(n - 1)`` however near collapse; zero where ``std_j >= target``.
        At exact collapse no direction follows from the formula. One of its
        subgradients, of the same length, is taken: rows are pushed apart in the
        order in which they stand in the batch.

    Source:
        Bardes, Ponce & LeCun (2021), arXiv:2105.04906, without its eps.

    Example:
        >>> rows = jnp.array([[1.0, 7.0], [3.0, 7.0], [5.0, 7.0]])
        >>> float(variance_hinge(rows))
        0.5
    """
    check_range("variance_hinge", "target", target)
    wide = widen(x)
    rows = spread_mask("variance_hinge", mask, wide)
    deviation = _alive(safe_std(wide, rows, axis=0, ddof=1), wide, rows)
    short = jnp.where(deviation >= target, 0.0, target - deviation)
    return jnp.where(jnp.any(rows), masked_mean(short), 0.0)
