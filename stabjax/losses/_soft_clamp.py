"""A bound on a value that leaves its gradient alive."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _soft_clamp(x: Array, scale: float) -> Array:
    return (scale * jnp.tanh(widen(x) / scale)).astype(x.dtype)


@_soft_clamp.defjvp
def _soft_clamp_jvp(scale: float, primals: tuple, tangents: tuple) -> tuple:
    # 1 - tanh**2 cancels to zero from |x| = 9 scale on; this form lives to 43.
    (x,) = primals
    decay = jnp.exp(-2.0 * jnp.abs(widen(x) / scale))
    slope = jnp.minimum(4.0 * decay / ((1.0 + decay) * (1.0 + decay)), 1.0)
    return _soft_clamp(x, scale), slope.astype(x.dtype) * tangents[0]


def soft_clamp(x: Float[Array, "*shape"], *, scale: float) -> Float[Array, "*shape"]:
    """Bound ``x`` smoothly to [-scale, scale].

    ``scale * tanh(x / scale)``: the identity near zero, odd, increasing.

    Args:
        x: Any floats, for example a raw loss; infinities become ``+-scale``.
        scale: The bound, in the unit of ``x``, [1.2e-38, 1e30].

    Returns:
        The bounded value in the dtype of ``x``. NaN stays NaN.

    Raises:
        ValueError: If ``scale`` is outside its range.

    Gradient:
        ``1 / cosh(x / scale)**2`` in (0, 1], exact; it falls as
        ``4 exp(-2|x|/scale)`` and is flushed to zero past ``|x| = 43 scale`` in
        float32. `asinh_compress` keeps more of it where losses are that large.

    Source:
        Own.

    Example:
        >>> soft_clamp(jnp.array([0.0, jnp.inf, -jnp.inf]), scale=10.0).tolist()
        [0.0, 10.0, -10.0]
    """
    check_range("soft_clamp", "scale", scale)
    return _soft_clamp(x, scale)
