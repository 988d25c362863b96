"""Mean, standard deviation and standardization over the entries that count."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.numerics._check import check_range
from stabjax.numerics._elementwise import safe_sqrt
from stabjax.numerics._norm import Axis
from stabjax.numerics._precision import power_of_two, saturate, widen


def _prepare(x: Array, mask: Array | None, axis: Axis) -> tuple[Array, tuple[int, ...]]:
    mask = jnp.ones(x.shape, jnp.bool_) if mask is None else mask
    if axis is None:
        return mask, tuple(range(x.ndim))
    axes = (axis,) if isinstance(axis, int) else axis
    return mask, tuple(a % x.ndim for a in axes)


def _counted(mask: Array, axes: tuple[int, ...], like: Array) -> Array:
    """Return how many entries count, in the dtype of ``like``, axes kept."""
    counted = jnp.sum(mask, axis=axes, keepdims=True, dtype=jnp.int32)
    return counted.astype(like.dtype)


def _average(x: Array, mask: Array, axes: tuple[int, ...]) -> Array:
    total = jnp.sum(jnp.where(mask, x, 0.0), axis=axes, keepdims=True)
    return total / jnp.maximum(_counted(mask, axes, x), 1.0)


def _scale(x: Array, mask: Array, axes: tuple[int, ...]) -> Array:
    """Return a power of two near the largest entry, axes kept, without gradient."""
    size = jnp.where(mask, jnp.abs(x), 0.0)
    return power_of_two(jnp.max(size, axis=axes, keepdims=True, initial=0.0))


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _mean(x: Array, mask: Array, axes: tuple[int, ...]) -> Array:
    wide = widen(x)
    power = _scale(wide, mask, axes)
    average = _average(wide * (1 / power), mask, axes)
    infinite = jnp.any(mask & jnp.isinf(x), axis=axes, keepdims=True)
    return saturate(average * power, wide.dtype, keep=infinite)


@_mean.defjvp
def _mean_jvp(axes: tuple[int, ...], primals: tuple, tangents: tuple) -> tuple:
    # Linear, so its own derivative; the unscaled form keeps a large cotangent finite.
    x, mask = primals
    return _mean(x, mask, axes), _average(widen(tangents[0]), mask, axes)


def masked_mean(
    x: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"] | None = None,
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Float[Array, "..."]:
    """Average the entries of ``x`` where ``mask`` holds.

    ``sum(x[mask]) / sum(mask)``. Entries that are masked out are selected away, so a
    NaN there changes neither the value nor the gradient. An empty mask gives zero,
    with zero gradient; who must know counts the mask.

    Args:
        x: Any floats, of any unit.
        mask: The entries that count; all by default.
        axis: The axis or axes to average over, each remaining row on its own count;
            all by default.
        keepdims: Keep the averaged axes with length one.

    Returns:
        The mean, float32 (float64 for a float64 input), in the unit of ``x``.

    Gradient:
        ``mask / sum(mask)``.

    Source:
        Own.

    Example:
        >>> x = jnp.array([[1.0, 3.0], [jnp.nan, 7.0]])
        >>> masked_mean(x, jnp.isfinite(x), axis=1).tolist()
        [2.0, 7.0]
    """
    mask, axes = _prepare(x, mask, axis)
    mean = _mean(x, mask, axes)
    return mean if keepdims else jnp.squeeze(mean, axes)


def _deviations(
    x: Array, mask: Array, axes: tuple[int, ...]
) -> tuple[Array, Array, Array]:
    """Return (x - mean) / p, zero where masked, the power of two p and the count.

    Two passes: the first mean only moves the origin near the data, the second one
    takes what its rounding left. A constant has deviations of exactly zero because
    the first mean is held between the smallest and the largest entry.
    """
    power = _scale(x, mask, axes)
    scaled = jnp.where(mask, x * (1 / power), 0.0)
    fixed = jax.lax.stop_gradient(scaled)
    limits = {"axis": axes, "keepdims": True, "where": mask}
    low = jnp.min(fixed, initial=jnp.inf, **limits)
    high = jnp.max(fixed, initial=-jnp.inf, **limits)
    origin = jnp.clip(_average(fixed, mask, axes), low, high)
    shifted = jnp.where(mask, scaled - origin, 0.0)
    centered = jnp.where(mask, shifted - _average(shifted, mask, axes), 0.0)
    return centered, power, _counted(mask, axes, x)


def _freedom(counted: Array, ddof: int) -> Array:
    return jnp.maximum(counted - ddof, 1.0)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _std(x: Array, mask: Array, axes: tuple[int, ...], ddof: int) -> Array:
    wide = widen(x)
    centered, power, counted = _deviations(wide, mask, axes)
    total = jnp.sum(centered * centered, axis=axes, keepdims=True)
    spread = jnp.sqrt(total / _freedom(counted, ddof))
    infinite = jnp.any(mask & jnp.isinf(x), axis=axes, keepdims=True)
    return saturate(spread * power, wide.dtype, keep=infinite)


@_std.defjvp
def _std_jvp(
    axes: tuple[int, ...], ddof: int, primals: tuple, tangents: tuple
) -> tuple:
    # deviation / ((n - ddof) std), written with a unit vector so that no power of
    # two is left to overflow; a collapsed row has no direction: zero.
    x, mask = primals
    centered, _, counted = _deviations(widen(x), mask, axes)
    size = jnp.sqrt(jnp.sum(centered * centered, axis=axes, keepdims=True))
    unit = centered / jnp.where(size == 0, jnp.ones_like(size), size)
    change = jnp.where(mask, widen(tangents[0]), 0.0)
    tangent = jnp.sum(unit * change, axis=axes, keepdims=True)
    return _std(x, mask, axes, ddof), tangent / jnp.sqrt(_freedom(counted, ddof))


def safe_std(
    x: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"] | None = None,
    *,
    axis: int | tuple[int, ...] | None = None,
    ddof: int = 0,
    keepdims: bool = False,
) -> Float[Array, "..."]:
    """Take the standard deviation, with a finite gradient at collapse.

    ``sqrt(sum((x - mean)**2) / max(n - ddof, 1))`` over the n entries that count, in
    two passes and scaled by a power of two.

    Args:
        x: Any floats, of any unit.
        mask: The entries that count; all by default. NaN elsewhere is inert.
        axis: The axis or axes to reduce; all by default.
        ddof: 0 for the population, 1 for the sample formula.
        keepdims: Keep the reduced axes with length one.

    Returns:
        The deviation, float32 (float64 for a float64 input), in the unit of ``x``.
        Zero for a constant, for one entry and for an empty mask.

    Raises:
        ValueError: If ``ddof`` is negative.

    Gradient:
        ``(x - mean) / ((n - ddof) std)``, at most 1/sqrt(n - ddof) long; zero, not
        NaN, where the deviation is zero.

    Source:
        Two-pass algorithm, Chan, Golub & LeVeque (1983), Am. Stat. 37(3).

    Example:
        >>> float(safe_std(jnp.array([1.0, 3.0, 5.0]), ddof=1))
        2.0
        >>> jax.grad(safe_std)(jnp.full((2,), 7.0)).tolist()
        [0.0, 0.0]
    """
    check_range("safe_std", "ddof", ddof, low=0)
    mask, axes = _prepare(x, mask, axis)
    deviation = _std(x, mask, axes, ddof)
    return deviation if keepdims else jnp.squeeze(deviation, axes)


def standardize(
    x: Float[Array, "*shape"],
    mask: Bool[Array, "*shape"] | None = None,
    *,
    axis: int | tuple[int, ...] | None = None,
    ddof: int = 0,
    eps: float = 1e-8,
) -> Float[Array, "*shape"]:
    """Bring ``x`` to zero mean and unit deviation; a constant becomes zero.

    ``(x - mean) / (std + eps)`` over the entries that count; zero elsewhere.

    Args:
        x: Any floats, of any unit.
        mask: The entries that count; all by default. NaN elsewhere is inert.
        axis: The axis or axes to reduce; all by default.
        ddof: 0 for the population, 1 for the sample formula.
        eps: Added to the deviation, in the unit of ``x``, [1e-30, 1e30].

    Returns:
        Dimensionless values in the dtype of ``x``.

    Raises:
        ValueError: If ``eps`` or ``ddof`` is outside its range.

    Gradient:
        Of order ``1 / (std + eps)``, hence up to 1e8 at collapse: float16 cannot
        hold that, give it ``eps`` >= 1e-4.

    Source:
        Return normalization of policy gradients, with a two-pass deviation.

    Example:
        >>> standardize(jnp.array([1.0, 2.0, 3.0]), ddof=1).tolist()
        [-1.0, 0.0, 1.0]
        >>> standardize(jnp.full((3,), 0.1)).tolist()
        [0.0, 0.0, 0.0]
    """
    check_range("standardize", "eps", eps, low=1e-30)
    check_range("standardize", "ddof", ddof, low=0)
    mask, axes = _prepare(x, mask, axis)
    wide = widen(x)
    centered, power, counted = _deviations(wide, mask, axes)
    total = jnp.sum(centered * centered, axis=axes, keepdims=True)
    spread = safe_sqrt(total / _freedom(counted, ddof))
    # In units of p; the floor keeps 0 / 0 out where eps / p is flushed to zero.
    divisor = jnp.maximum(spread + eps * (1 / power), 1e-30)
    return (centered / divisor).astype(x.dtype)
