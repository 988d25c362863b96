"""Compression of large values that keeps their order and their gradient."""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen

# Past this ratio asinh(u) is log(2u) to the last bit, and u itself may overflow.
_FAR = 2.0**40


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _asinh_compress(x: Array, scale: float) -> Array:
    wide = widen(x)
    size = jnp.abs(wide)
    far = jnp.sign(wide) * (jnp.log(size) - math.log(scale / 2))
    value = jnp.where(size > _FAR * scale, far, jnp.arcsinh(wide / scale))
    return (scale * value).astype(x.dtype)


@_asinh_compress.defjvp
def _asinh_compress_jvp(scale: float, primals: tuple, tangents: tuple) -> tuple:
    # 1 / sqrt(1 + u**2) without the square of a large u.
    (x,) = primals
    size = jnp.abs(widen(x) / scale)
    large, small = jnp.maximum(size, 1.0), jnp.minimum(size, 1.0)
    slope = 1.0 / large / jnp.sqrt(small**2 + (1.0 / large) ** 2)
    return _asinh_compress(x, scale), slope.astype(x.dtype) * tangents[0]


def asinh_compress(
    x: Float[Array, "*shape"], *, scale: float
) -> Float[Array, "*shape"]:
    """Let ``x`` grow only logarithmically beyond ``scale``.

    ``scale * asinh(x / scale)``: the identity near zero, odd, increasing, unbounded.

    Args:
        x: Any floats, for example a raw loss; infinities stay.
        scale: Size at which compression sets in, in the unit of ``x``,
            [1.2e-38, 1e30].

    Returns:
        The compressed value in the dtype of ``x``. NaN stays NaN.

    Raises:
        ValueError: If ``scale`` is outside its range.

    Gradient:
        ``1 / sqrt(1 + (x / scale)**2)`` in (0, 1], exact; ``scale / |x|`` for large
        ``x``, flushed to zero only past ``|x| = 8e37 scale`` in float32.

    Source:
        asinh link, Burbidge, Magee & Robb (1988), JASA 83(401).

    Example:
        >>> loss = jnp.array(3e38)
        >>> round(float(asinh_compress(loss, scale=1.0)), 2)
        89.29
    """
    check_range("asinh_compress", "scale", scale)
    return _asinh_compress(x, scale)
