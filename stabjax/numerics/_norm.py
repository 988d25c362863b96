"""The Euclidean norm without overflow, underflow or a kink at zero."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._precision import power_of_two, saturate, widen

Axis = int | tuple[int, ...] | None


def scaled_norm(x: Array, axis: Axis) -> tuple[Array, Array, Array]:
    """Return ``x / p``, its norm and the power of two ``p``, axes kept."""
    power = power_of_two(jnp.max(jnp.abs(x), axis=axis, keepdims=True, initial=0.0))
    # The reciprocal of a power of two is exact, whatever XLA makes of a division.
    scaled = x * (1 / power)
    total = jnp.sum(scaled * scaled, axis=axis, keepdims=True)
    return scaled, jnp.sqrt(total), power


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _norm(x: Array, axis: Axis) -> Array:
    wide = widen(x)
    _, size, power = scaled_norm(wide, axis)
    infinite = jnp.any(jnp.isinf(x), axis=axis, keepdims=True)
    return saturate(size * power, wide.dtype, keep=infinite)


@_norm.defjvp
def _norm_jvp(axis: Axis, primals: tuple, tangents: tuple) -> tuple:
    (x,) = primals
    wide = widen(x)
    scaled, size, _ = scaled_norm(wide, axis)
    unit = scaled / jnp.where(size == 0, jnp.ones_like(size), size)
    tangent = jnp.sum(unit * widen(tangents[0]), axis=axis, keepdims=True)
    return _norm(x, axis), tangent


def safe_norm(
    x: Float[Array, "..."],
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
) -> Float[Array, "..."]:
    """Take the Euclidean norm of ``x``, right from 1e-38 to 1e38.

    ``p * sqrt(sum((x / p)**2))`` with ``p`` the power of two below ``max|x|``.

    Args:
        x: Any floats. An empty array has norm zero.
        axis: The axis or axes to sum over; all by default.
        keepdims: Keep the summed axes with length one.

    Returns:
        The norm, float32 (float64 for a float64 input). Infinite only if ``x`` is:
        a norm that no float32 can hold saturates at the largest one.

    Gradient:
        ``x / norm``, a unit vector; zero where the norm is zero.

    Source:
        Scaling as in LAPACK's dlassq, with powers of two because they are exact.

    Example:
        >>> float(safe_norm(jnp.array([3e20, 4e20])) / jnp.float32(5e20))
        1.0
        >>> float(jax.grad(safe_norm)(jnp.zeros(()))) # not NaN
        0.0
    """
    every = tuple(range(x.ndim)) if axis is None else axis
    norm = _norm(x, every)
    return norm if keepdims else jnp.squeeze(norm, every)
