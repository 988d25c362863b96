"""Is the target something the sampler could produce on average?"""

import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from stabjax.numerics._check import check_order, check_range
from stabjax.numerics._precision import widen


def hull_violation(
    target: Float[Array, "..."],
    *,
    box: tuple[float, float] | None = None,
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, ""]:
    """Measure how far a target lies outside the convex hull of the states.

    One-hot states: ``max_i max(max_k(-y_ik), |sum_k y_ik - 1|)``, the worst row of a
    target whose last axis is the classes. States in a box:
    ``max_i max(low - y_i, y_i - high, 0)``. Zero inside the hull.

    A Fenchel-Young loss has a lower bound exactly when this is zero. Log it, refuse
    the step on it, or check data once with `check_in_hull`.

    Args:
        target: For one-hot states ``[*cells, classes]``, for a box any shape.
        box: ``(low, high)`` in the unit of the target, for ordinal states; None for
            one-hot states.
        mask: The cells that count, shape ``[*cells]``, for a box that of the target.

    Returns:
        The largest violation, float32 (float64 for float64), in the unit of the
        target; rounding of soft rows shows as about 1e-7. Zero if no cell counts.
        NaN if a cell that counts holds one.

    Raises:
        ValueError: If ``low`` is not below ``high``.

    Gradient:
        That of a maximum: it reaches only the worst cell. Meant as a metric.

    Source:
        Own.

    Example:
        >>> z_scored = jnp.array([[-0.5, 2.0]])
        >>> float(hull_violation(z_scored)), float(hull_violation(jnp.eye(3)))
        (0.5, 0.0)
        >>> float(hull_violation(z_scored, box=(0.0, 9.0)))
        0.5
    """
    cells = target.shape[:-1] if box is None else target.shape
    counts = jnp.ones(cells, jnp.bool_) if mask is None else mask
    wide = widen(target)
    if box is None:
        wide = jnp.where(counts[..., None], wide, 1.0 / target.shape[-1])
        total = jnp.abs(jnp.sum(wide, axis=-1) - 1.0)
        outside = jnp.maximum(jnp.max(-wide, axis=-1), total)
    else:
        low, high = box
        check_order("hull_violation", low, high)
        outside = jnp.maximum(low - wide, wide - high)
    return jnp.max(jnp.where(counts, outside, 0.0), initial=0.0)


def check_in_hull(
    target: Float[Array, "..."],
    *,
    box: tuple[float, float] | None = None,
    mask: Bool[Array, "..."] | None = None,
    tolerance: float = 1e-5,
) -> None:
    """Refuse a target outside the convex hull of the states, before training.

    Args:
        target: A concrete array, as in `hull_violation`.
        box: ``(low, high)`` for ordinal states; None for one-hot states.
        mask: The cells that count.
        tolerance: Violation that passes for rounding, in the unit of the target,
            [0, 1e30].

    Raises:
        ValueError: If the target lies outside by more than ``tolerance``, or is NaN.
        TypeError: Under a jax transformation, where the value is not known yet.

    Source:
        Own.

    Example:
        >>> check_in_hull(jnp.eye(3))
        >>> check_in_hull(jnp.array([35.0]), box=(0.0, 9.0))
        Traceback (most recent call last):
        ValueError: check_in_hull: target must be within 1e-05 of [0.0, 9.0], got 26.
    """
    check_range("check_in_hull", "tolerance", tolerance, low=0.0)
    if isinstance(target, Tracer):
        raise TypeError(
            "check_in_hull: target must be a concrete array, got a tracer; "
            "inside jit log hull_violation instead."
        )
    violation = float(hull_violation(target, box=box, mask=mask))
    if not violation <= tolerance:  # also for NaN
        hull = "the simplex" if box is None else f"[{box[0]}, {box[1]}]"
        raise ValueError(
            f"check_in_hull: target must be within {tolerance} of {hull}, "
            f"got {violation:.4g}."
        )
