"""Division, logarithm, square root and power without the pole."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._check import check_range
from stabjax.numerics._precision import TINY, saturate, widen


def _finite(x: Array) -> Array:
    return jnp.isfinite(x)


def _quotient(numerator: Array, denominator: Array) -> Array:
    """Divide; a huge denominator is scaled down first (see `power_of_two`)."""
    scale = jnp.where(jnp.abs(denominator) > 2.0**64, 2.0**-64, 1.0)
    scale = scale.astype(denominator.dtype)
    return (numerator * scale) / (denominator * scale)


def _off_zero(x: Array, floor: float) -> Array:
    """Move ``|x| < floor`` out to ``floor`` on its own side; zero counts positive."""
    floor_at = jnp.asarray(floor, x.dtype)
    return jnp.where(jnp.abs(x) < floor, jnp.where(x < 0, -floor_at, floor_at), x)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _divide(numerator: Array, denominator: Array, floor: float) -> Array:
    dtype = jnp.result_type(numerator, denominator)
    value = _quotient(widen(numerator), _off_zero(widen(denominator), floor))
    return saturate(value, dtype, keep=~_finite(numerator) | ~_finite(denominator))


@_divide.defjvp
def _divide_jvp(floor: float, primals: tuple, tangents: tuple) -> tuple:
    numerator, denominator = primals
    dtype = jnp.result_type(numerator, denominator)
    below = _off_zero(widen(denominator), floor)
    slope = _quotient(jnp.ones_like(below), below)
    bend = -_quotient(_quotient(widen(numerator), below), below)
    bend = jnp.where(jnp.abs(denominator) < floor, jnp.zeros_like(bend), bend)
    tangent = saturate(slope, numerator.dtype).astype(dtype) * tangents[0].astype(dtype)
    tangent += saturate(bend, denominator.dtype).astype(dtype) * tangents[1].astype(
        dtype
    )
    return _divide(numerator, denominator, floor), tangent


def safe_divide(
    numerator: Float[Array, "..."],
    denominator: Float[Array, "..."],
    *,
    floor: float,
) -> Float[Array, "..."]:
    """Divide by a denominator that is kept away from zero.

    ``numerator / d`` with ``d = denominator`` where ``|denominator| >= floor`` and
    ``+-floor`` elsewhere, with the sign of the denominator (zero counts positive).
    A quotient beyond the range of the dtype saturates at its largest number.

    Args:
        numerator: Any floats.
        denominator: Any floats, of the same shape or a scalar.
        floor: Smallest size of the denominator, in its unit, [1.2e-38, 1e30].

    Returns:
        The quotient in the promoted dtype of both.

    Raises:
        ValueError: If ``floor`` is outside its range.

    Gradient:
        ``1/d`` and ``-numerator/d**2``, saturated like the value. Zero with respect
        to the denominator where ``|denominator| < floor``.

    Source:
        Own.

    Example:
        >>> x = jnp.array([1.0, 1.0, -6.0])
        >>> safe_divide(x, jnp.array([0.0, -1e-9, 3.0]), floor=0.5).tolist()
        [2.0, -2.0, -2.0]
    """
    check_range("safe_divide", "floor", floor)
    return _divide(numerator, denominator, floor)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _log(x: Array, floor: float) -> Array:
    return jnp.log(jnp.maximum(widen(x), floor)).astype(x.dtype)


@_log.defjvp
def _log_jvp(floor: float, primals: tuple, tangents: tuple) -> tuple:
    (x,) = primals
    wide = widen(x)
    slope = _quotient(jnp.ones_like(wide), jnp.maximum(wide, floor))
    slope = jnp.where(wide < floor, jnp.zeros_like(slope), slope)
    return _log(x, floor), saturate(slope, x.dtype) * tangents[0]


def safe_log(
    x: Float[Array, "..."], *, floor: float | None = None
) -> Float[Array, "..."]:
    """Take the logarithm of ``x``, or of ``floor`` where ``x`` is below it.

    ``log(max(x, floor))``.

    Args:
        x: Any floats; zero and negative values count as ``floor``.
        floor: Smallest argument of the logarithm, in the unit of ``x``,
            [1.2e-38, 1e30]. By default the smallest normal number of the dtype,
            where the slope 1/x still fits: 1.2e-38, for float16 6.1e-5.

    Returns:
        The logarithm in the dtype of ``x``.

    Raises:
        ValueError: If ``floor`` is outside its range.

    Gradient:
        ``1/x``; zero below ``floor``.

    Source:
        Own.

    Example:
        >>> safe_log(jnp.array([0.0, 1.0]), floor=1.0).tolist()
        [0.0, 0.0]
    """
    floor = max(float(jnp.finfo(x.dtype).tiny), TINY) if floor is None else floor
    check_range("safe_log", "floor", floor)
    return _log(x, floor)


def safe_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Take the square root, with zero value and zero gradient at and below zero.

    ``sqrt(max(x, 0))``. A negative argument is taken for a zero with rounding error.

    Args:
        x: Any floats, for example a variance.

    Returns:
        The root in the dtype of ``x``.

    Gradient:
        ``1 / (2 sqrt(x))`` for x > 0; zero, not infinite, for x <= 0.

    Source:
        Own; the double select keeps the infinite slope out of the backward pass.

    Example:
        >>> float(jax.grad(safe_sqrt)(jnp.array(0.0)))
        0.0
    """
    wide = widen(x)
    zero = wide <= 0  # False for NaN, so NaN takes the root and stays
    root = jnp.sqrt(jnp.where(zero, jnp.ones_like(wide), wide))
    return jnp.where(zero, jnp.zeros_like(root), root).astype(x.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _power(x: Array, exponent: float) -> Array:
    wide = widen(x)
    zero = wide <= 0  # False for NaN, so NaN takes the power and stays
    power = jnp.where(zero, jnp.ones_like(wide), wide) ** exponent
    power = jnp.where(zero, jnp.zeros_like(power), power)
    return saturate(power, x.dtype, keep=jnp.isinf(x))


@_power.defjvp
def _power_jvp(exponent: float, primals: tuple, tangents: tuple) -> tuple:
    (x,) = primals
    wide = widen(x)
    zero = wide <= 0
    slope = exponent * jnp.where(zero, jnp.ones_like(wide), wide) ** (exponent - 1)
    slope = jnp.where(zero, jnp.zeros_like(slope), slope)
    return _power(x, exponent), saturate(slope, x.dtype) * tangents[0]


def safe_power(x: Float[Array, "..."], *, exponent: float) -> Float[Array, "..."]:
    """Raise ``x`` to a power, with zero value and zero gradient at and below zero.

    ``max(x, 0)**exponent``. A negative base is taken for a zero with rounding error.
    A power beyond the range of the dtype saturates at its largest number.

    Args:
        x: Any floats, for example a probability.
        exponent: Positive, [1e-6, 1e6]. For a negative one there is `safe_divide`.

    Returns:
        The power in the dtype of ``x``.

    Raises:
        ValueError: If ``exponent`` is outside its range.

    Gradient:
        ``exponent * x**(exponent - 1)`` for x > 0, saturated like the value; zero,
        not infinite, for x <= 0.

    Source:
        Own.

    Example:
        >>> safe_power(jnp.array([-1e-9, 0.0, 4.0]), exponent=0.5).tolist()
        [0.0, 0.0, 2.0]
        >>> float(jax.grad(safe_power)(jnp.array(0.0), exponent=0.5))
        0.0
    """
    check_range("safe_power", "exponent", exponent, low=1e-6, high=1e6)
    return _power(x, exponent)
