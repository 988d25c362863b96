"""A limit on change that grows with what is changed."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen


def relative_clip(
    new: Float[Array, "*shape"],
    old: Float[Array, "*shape"],
    *,
    ratio: float,
    floor: float = 1e-2,
) -> tuple[Float[Array, "*shape"], Int[Array, ""]]:
    """Keep ``new`` within a share of ``|old|`` around ``old``, and count the hits.

    ``clip(new, old - limit, old + limit)`` with ``limit = ratio * max(|old|, floor)``,
    without a division. For the value function of PPO: the values that collected the
    data are ``old``. A clipped value no longer trains: watch the share of hits.

    Below the floor the limit is ``ratio * floor`` instead of a share of next to
    nothing, so a value can leave zero and change its sign. The default only keeps it
    alive: near zero it moves by ``ratio / 100`` per update. For standardized returns
    give ``floor=1.0``, one deviation.

    Args:
        new: Any floats, for example predicted values.
        old: Where they started, in the unit and shape of ``new``.
        ratio: Largest relative change, dimensionless, [1.2e-38, 1e30]; PPO takes 0.2.
        floor: Size that a smaller ``|old|`` counts as, in the unit of ``new``,
            [1.2e-38, 1e30].

    Returns:
        The clipped value in the dtype of ``new``, and the number of entries that were
        outside the limits, int32. NaN where ``new`` or ``old`` is, and where ``old``
        is infinite, which has no interval around it.

    Raises:
        ValueError: If an option is outside its range.
        AssertionError: If the shapes of ``new`` and ``old`` differ.

    Gradient:
        One with respect to ``new`` inside and on the limits, exactly zero outside.
        None with respect to ``old``, which is data.

    Source:
        Seed 002, which divides by ``|old| + 1e-8``: at ``old = 0`` its limit is
        ``ratio * 1e-8`` and a value never comes back from zero.

    Example:
        >>> old = jnp.array([10.0, 0.0])
        >>> value, hits = relative_clip(jnp.array([11.0, 5.0]), old, ratio=0.2)
        >>> [round(v, 4) for v in value.tolist()], int(hits)
        ([11.0, 0.002], 1)
    """
    check_range("relative_clip", "ratio", ratio)
    check_range("relative_clip", "floor", floor)
    # Checked while tracing: one old value for all would broadcast in silence.
    chex.assert_equal_shape([new, old])
    center = jax.lax.stop_gradient(widen(old))
    # In halves: the limit alone may overflow where its end is still a number. An end
    # beyond the largest number is infinite, and nothing lies beyond it.
    limit = 0.5 * ratio * jnp.maximum(jnp.abs(center), floor)
    low, high = 2.0 * (0.5 * center - limit), 2.0 * (0.5 * center + limit)
    wide = widen(new)
    under, over = wide < low, wide > high  # False for NaN
    value = jnp.where(under, low, jnp.where(over, high, wide))
    value = jnp.where(low <= high, value, jnp.nan)
    return value.astype(new.dtype), jnp.sum(under | over, dtype=jnp.int32)
