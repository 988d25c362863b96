"""The plain clamp, made countable."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.numerics._check import check_order


def hard_clamp(
    x: Float[Array, "*shape"], *, low: float, high: float
) -> tuple[Float[Array, "*shape"], Int[Array, ""]]:
    """Clip ``x`` to [low, high] and count how often that changed it.

    ``min(max(x, low), high)``. A loss beyond its limit no longer trains: prefer
    `soft_clamp` or `asinh_compress`. The count is there so that nobody overlooks it.

    Args:
        x: Any floats; infinities are clipped and counted.
        low: Lower limit, in the unit of ``x``; -inf for none.
        high: Upper limit, above ``low``; inf for none.

    Returns:
        The clipped value in the dtype of ``x``, NaN where ``x`` is, and the number
        of entries outside the limits, int32.

    Raises:
        ValueError: If ``low`` is not below ``high``.

    Gradient:
        One inside and on the limits. Exactly zero outside.

    Source:
        Own.

    Example:
        >>> value, hits = hard_clamp(jnp.array([1.0, 50.0]), low=-10.0, high=10.0)
        >>> value.tolist(), int(hits)
        ([1.0, 10.0], 1)
    """
    check_order("hard_clamp", low, high)
    under, over = x < low, x > high  # False for NaN
    clipped = jnp.where(under, jnp.asarray(low, x.dtype), x)
    clipped = jnp.where(over, jnp.asarray(high, x.dtype), clipped)
    return clipped, jnp.sum(under | over, dtype=jnp.int32)
