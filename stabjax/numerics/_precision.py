"""Dtypes and exact scaling shared by the safe forms."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, DTypeLike, Float, Inexact

# The smallest normal float32: a floor below it is flushed to zero by XLA.
TINY = float(np.finfo(np.float32).tiny)


def widen(x: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """Return ``x`` in float32, or as it is if it is wider."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def saturate(
    x: Float[Array, "..."],
    dtype: DTypeLike,
    *,
    keep: Bool[Array, "..."] | bool = False,
) -> Float[Array, "..."]:
    """Cast ``x`` to ``dtype``; overflow becomes the largest number, not infinity.

    Args:
        x: Values, float32 or wider. NaN stays NaN.
        dtype: The float dtype of the result.
        keep: Where an infinity is the right answer (the input was infinite).

    Returns:
        ``x`` in ``dtype``.
    """
    limit = float(jnp.finfo(dtype).max)
    return jnp.where(keep, x, jnp.clip(x, -limit, limit)).astype(dtype)


def power_of_two(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return the largest power of two <= ``|x|`` that has a normal reciprocal.

    Multiplying or dividing by it is exact. Dividing by ``max|x|`` itself is not
    safe: XLA turns ``x / m`` into ``x * (1 / m)``, and 1 / 1e38 is flushed to zero.
    It has no gradient: it is read off the bits.
    """
    integer, exponent = {
        "float32": (jnp.int32, np.int32(0x7F800000)),
        "float64": (jnp.int64, np.int64(0x7FF0000000000000)),
    }[x.dtype.name]
    bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(x), integer)
    power = jax.lax.bitcast_convert_type(bits & exponent, x.dtype)
    least = float(jnp.finfo(x.dtype).tiny)  # 2**-126 in float32
    return jnp.clip(power, least, 1 / least)
