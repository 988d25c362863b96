"""Arc cosine and arc sine without the infinite slope at +-1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._precision import widen


def _slope(x: Array) -> Array:
    """Return 1 / sqrt(1 - x**2), zero at +-1 and beyond.

    The product does not cancel near one, and the select before the root keeps its
    infinite slope out of the second derivative.
    """
    outside = jnp.abs(x) >= 1  # False for NaN, so NaN stays
    room = jnp.where(outside, jnp.ones_like(x), (1 - x) * (1 + x))
    return jnp.where(outside, jnp.zeros_like(x), 1 / jnp.sqrt(room))


@jax.custom_jvp
def _arccos(x: Array) -> Array:
    return jnp.arccos(jnp.clip(x, -1.0, 1.0))


@_arccos.defjvp
def _arccos_jvp(primals: tuple, tangents: tuple) -> tuple:
    return _arccos(*primals), -_slope(*primals) * tangents[0]


@jax.custom_jvp
def _arcsin(x: Array) -> Array:
    return jnp.arcsin(jnp.clip(x, -1.0, 1.0))


@_arcsin.defjvp
def _arcsin_jvp(primals: tuple, tangents: tuple) -> tuple:
    return _arcsin(*primals), _slope(*primals) * tangents[0]


def safe_arccos(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Take the arc cosine; beyond +-1 it is that of +-1.

    ``arccos(clip(x, -1, 1))``. A value beyond is taken for +-1 with rounding error,
    such as the product of two unit vectors.

    Args:
        x: Any floats, for example the cosine of an angle.

    Returns:
        The angle [rad], [0, pi], in the dtype of ``x``.

    Gradient:
        ``-1 / sqrt(1 - x**2)`` for |x| < 1, in float32 at most 2896; zero, not
        infinite, at +-1 and beyond. Where a loss must move the angle off 0 or pi,
        let it compare the cosines.

    Source:
        Own.

    Example:
        >>> jax.vmap(jax.value_and_grad(safe_arccos))(jnp.array([1.0, 1.0000001]))
        (Array([0., 0.], dtype=float32), Array([-0., -0.], dtype=float32))
    """
    return _arccos(widen(x)).astype(x.dtype)


def safe_arcsin(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Take the arc sine; beyond +-1 it is that of +-1.

    ``arcsin(clip(x, -1, 1))``. A value beyond is taken for +-1 with rounding error.

    Args:
        x: Any floats, for example the sine of an angle.

    Returns:
        The angle [rad], [-pi/2, pi/2], in the dtype of ``x``.

    Gradient:
        ``1 / sqrt(1 - x**2)`` for |x| < 1, in float32 at most 2896; zero, not
        infinite, at +-1 and beyond.

    Source:
        Own.

    Example:
        >>> jax.grad(safe_arcsin)(jnp.array(1.0)).tolist()
        0.0
    """
    return _arcsin(widen(x)).astype(x.dtype)
