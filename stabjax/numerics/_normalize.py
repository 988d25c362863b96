"""A vector brought to length one, where a zero vector stays zero."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._check import check_range
from stabjax.numerics._elementwise import safe_divide
from stabjax.numerics._norm import Axis, safe_norm, scaled_norm
from stabjax.numerics._precision import TINY, saturate, widen


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _normalize(x: Array, axis: Axis, floor: float) -> Array:
    wide = widen(x)
    scaled, size, power = scaled_norm(wide, axis)
    unit = scaled / jnp.where(size == 0, jnp.ones_like(size), size)
    return jnp.where(size * power < floor, wide * (1 / floor), unit).astype(x.dtype)


@_normalize.defjvp
def _normalize_jvp(axis: Axis, floor: float, primals: tuple, tangents: tuple) -> tuple:
    # Written with the value, the norm and the quotient, which have rules of their own:
    # so the second derivative is finite, too.
    (x,) = primals
    wide, change = widen(x), widen(tangents[0])
    unit = _normalize(wide, axis, floor)
    norm = safe_norm(wide, axis=axis, keepdims=True)
    slope = safe_divide(jnp.ones_like(norm), norm, floor=floor)
    slope = jnp.where(norm == 0, jnp.zeros_like(slope), slope)
    slope = widen(saturate(slope, x.dtype))
    along = jnp.sum(unit * change, axis=axis, keepdims=True)
    along = jnp.where(norm < floor, jnp.zeros_like(along), along)
    tangent = (change - unit * along) * slope
    return _normalize(x, axis, floor), tangent.astype(x.dtype)


def safe_normalize(
    x: Float[Array, "*shape"],
    *,
    axis: int | tuple[int, ...] | None = -1,
    floor: float | None = None,
) -> Float[Array, "*shape"]:
    """Divide ``x`` by its Euclidean norm; a zero vector stays zero.

    ``x / max(|x|, floor)``, right from 1e-38 to 1e38.

    Args:
        x: Any floats, of any unit.
        axis: The axis or axes along which a vector lies; None takes all of ``x`` as
            one vector.
        floor: Smallest divisor, in the unit of ``x``, [1.2e-38, 1e30]; a shorter
            vector stays shorter than one. By default the smallest normal number of
            the dtype, where the slope still fits: 1.2e-38, for float16 6.1e-5.

    Returns:
        Dimensionless values in the dtype of ``x``.

    Raises:
        ValueError: If ``floor`` is outside its range.

    Gradient:
        ``(I - u u^T) / |x|`` with ``u`` the unit vector, ``I / floor`` below
        ``floor``, saturated at the largest number of the dtype; zero for the zero
        vector, which has no direction. It grows as 1/|x|: ``floor`` bounds it.

    Source:
        Own.

    Example:
        >>> safe_normalize(jnp.array([[0.0, 0.0], [0.0, 4e20]])).tolist()
        [[0.0, 0.0], [0.0, 1.0]]
        >>> jax.jacobian(safe_normalize)(jnp.zeros(2)).tolist()
        [[0.0, 0.0], [0.0, 0.0]]
    """
    floor = max(float(jnp.finfo(x.dtype).tiny), TINY) if floor is None else floor
    check_range("safe_normalize", "floor", floor)
    every = tuple(range(x.ndim)) if axis is None else axis
    return _normalize(x, every, floor)
