"""Adaptive weights: a reciprocal that cannot explode."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._check import check_order, check_range
from stabjax.numerics._precision import saturate, widen


def _check(function: str, scale: float, low: float, high: float) -> None:
    for name, value in (("scale", scale), ("low", low), ("high", high)):
        check_range(function, name, value, low=1e-30)
    check_order(function, low, high)
    check_range(function, "scale / low", scale / low, low=0.0)


def bounded_reciprocal(
    x: Float[Array, "..."], *, scale: float, low: float, high: float
) -> Float[Array, "..."]:
    """Return ``scale / x`` with ``x`` clipped to [low, high].

    ``scale / clip(x, low, high)``, hence within [scale/high, scale/low]. This is the
    adaptive weight ``scale / mean|x|`` with a limit. As a weight it is a number, not
    a loss: stop its gradient, or ``weight(x) * x`` is the constant ``scale``.

    Args:
        x: Any floats, in the unit of ``low`` and ``high``.
        scale: The product of weight and ``x`` in between, [1e-30, 1e30].
        low: Smallest denominator, [1e-30, 1e30]; ``scale / low`` <= 1e30.
        high: Largest denominator, above ``low``.

    Returns:
        The bounded reciprocal in the dtype of ``x``.

    Raises:
        ValueError: If an option is outside its range.

    Gradient:
        ``-scale / x**2`` inside [low, high]; zero outside.
        `smooth_bounded_reciprocal` never loses its gradient.

    Source:
        Own.

    Example:
        >>> x = jnp.array([0.0, 0.5, 99.0])
        >>> bounded_reciprocal(x, scale=1.0, low=0.25, high=2.0).tolist()
        [4.0, 2.0, 0.5]
    """
    _check("bounded_reciprocal", scale, low, high)
    wide = widen(x)
    over, under = jnp.asarray(high, wide.dtype), jnp.asarray(low, wide.dtype)
    clipped = jnp.where(wide < low, under, jnp.where(wide > high, over, wide))
    return saturate(scale / clipped, x.dtype)


def _smooth_parts(wide: Array, low: float) -> tuple[Array, Array]:
    """Return the smooth maximum of x and low, over low, and its slope in x."""
    # Past 1e15 nothing changes in the value; the limit keeps the squares finite.
    excess = jnp.clip((wide - low) * (1 / low), -1e15, 1e15)
    root = jnp.sqrt(1.0 + excess * excess)
    # The form without cancellation on each side: x + root and 1 / (root - x).
    far = jnp.abs(excess) + root
    rise = jnp.where(excess < 0, 1 / far, far)
    return 1.0 + 0.5 * rise, 0.5 * rise / root


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _smooth(x: Array, scale: float, low: float, high: float) -> Array:
    above, _ = _smooth_parts(widen(x), low)
    value = scale / high + (scale / low - scale / high) / above
    return saturate(value, x.dtype)


@_smooth.defjvp
def _smooth_jvp(
    scale: float, low: float, high: float, primals: tuple, tangents: tuple
) -> tuple:
    (x,) = primals
    above, slope = _smooth_parts(widen(x), low)
    # Divided twice, XLA would divide once by the product, which overflows.
    inverse = 1 / above
    slope = -(scale / low - scale / high) * (slope * inverse * inverse) * (1 / low)
    return _smooth(x, scale, low, high), saturate(slope, x.dtype) * tangents[0]


def smooth_bounded_reciprocal(
    x: Float[Array, "..."], *, scale: float, low: float, high: float
) -> Float[Array, "..."]:
    """Return a strictly decreasing ``scale / x`` within (scale/high, scale/low).

    ``scale/high + (scale/low - scale/high) * low / m(x)`` with the smooth maximum
    ``m(x) = low + ((x - low) + sqrt((x - low)**2 + low**2)) / 2 > low``.

    Args:
        x: Any floats, in the unit of ``low`` and ``high``.
        scale: The product of weight and ``x`` for ``low << x << high``,
            [1e-30, 1e30].
        low: Size at which the growth for small ``x`` bends, [1e-30, 1e30].
        high: Sets the smallest value ``scale / high``; above ``low``.

    Returns:
        The bounded reciprocal in the dtype of ``x``.

    Raises:
        ValueError: If an option is outside its range.

    Gradient:
        Negative for every ``x``, falling as ``1/x**2`` on both sides. Past
        ``|x| = 1e15 low`` it keeps the size it has there. It vanishes only where
        the dtype cannot hold it.

    Source:
        Own.

    Example:
        >>> x = jnp.array(-1e9)
        >>> weigh = functools.partial(
        ...     smooth_bounded_reciprocal, scale=1.0, low=0.5, high=4.0
        ... )
        >>> bool(weigh(x) <= 2.0), float(jax.grad(weigh)(x)) < 0
        (True, True)
    """
    _check("smooth_bounded_reciprocal", scale, low, high)
    return _smooth(x, scale, low, high)
