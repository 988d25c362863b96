"""A logarithm for both signs, and its inverse that saturates."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._precision import saturate, widen


@jax.custom_jvp
def _symlog(x: Array) -> Array:
    wide = widen(x)
    return jnp.copysign(jnp.log1p(jnp.abs(wide)), wide).astype(x.dtype)


@_symlog.defjvp
def _symlog_jvp(primals: tuple, tangents: tuple) -> tuple:
    # sign and abs each have slope zero at zero; the product must have slope one.
    (x,) = primals
    slope = 1.0 / (1.0 + jnp.abs(widen(x)))
    return _symlog(x), slope.astype(x.dtype) * tangents[0]


def symlog(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Compress ``x`` to its logarithm, keeping sign and zero.

    ``sign(x) * log(1 + |x|)``: the identity near zero, odd, increasing, unbounded.
    `symexp` undoes it.

    Args:
        x: Any floats, for example returns; infinities stay.

    Returns:
        The compressed value in the dtype of ``x``, at most 89 in size for a finite
        float32. NaN stays NaN.

    Gradient:
        ``1 / (1 + |x|)`` in (0, 1], exact and one at zero; flushed to zero only past
        ``|x| = 8e37`` in float32.

    Source:
        Hafner et al. (2023), arXiv:2301.04104.

    Example:
        >>> [round(y, 4) for y in symlog(jnp.array([-1.0, 0.0, 1e6])).tolist()]
        [-0.6931, 0.0, 13.8155]
    """
    return _symlog(x)


@jax.custom_jvp
def _symexp(x: Array) -> Array:
    wide = widen(x)
    value = jnp.copysign(jnp.expm1(jnp.abs(wide)), wide)
    return saturate(value, x.dtype, keep=jnp.isinf(x))


@_symexp.defjvp
def _symexp_jvp(primals: tuple, tangents: tuple) -> tuple:
    (x,) = primals
    size = jnp.abs(widen(x))
    constant = jnp.expm1(size) > float(jnp.finfo(x.dtype).max)
    slope = jnp.exp(jnp.where(constant, 0.0, size))
    slope = jnp.where(constant, 0.0, slope)
    return _symexp(x), saturate(slope, x.dtype) * tangents[0]


def symexp(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Undo `symlog`.

    ``sign(x) * (exp(|x|) - 1)``, saturating at the largest number of the dtype: from
    ``|x| = 88.7`` on in float32 and bfloat16, from 11.1 on in float16.

    Args:
        x: Any floats; infinities stay.

    Returns:
        The value in the dtype of ``x``, finite where ``x`` is. NaN stays NaN. An
        error of ``x`` grows with the result: at 1e6 float32 knows seven digits of
        ``x = 13.8``, hence five or six of the result.

    Gradient:
        ``exp(|x|)``, up to the largest number; zero where the value saturates.

    Source:
        Hafner et al. (2023), arXiv:2301.04104.

    Example:
        >>> [f"{y:.6g}" for y in symexp(jnp.array([-700.0, 0.0, 1.0])).tolist()]
        ['-3.40282e+38', '0', '1.71828']
    """
    return _symexp(x)
