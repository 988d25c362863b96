"""Running statistics that a non-finite value cannot enter."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def running_mean(
    mean: Float[Array, "..."],
    value: Float[Array, "..."],
    seen: Int[Array, "..."],
    decay: float,
    where: Bool[Array, "..."] | bool = True,
) -> Float[Array, "..."]:
    """Move a mean toward a value; the plain average while little has been seen.

    ``mean + max(1 / (seen + 1), 1 - decay) * (value - mean)``: unbiased from the
    first value on, and exponential with ``decay`` later. A non-finite value leaves
    the mean as it is.

    Args:
        mean: The mean so far.
        value: The new value, same shape.
        seen: How many values the mean holds.
        decay: Memory of the exponential mean, in [0, 1).
        where: Where the value counts.

    Returns:
        The new mean.
    """
    weight = jnp.maximum(1.0 / (seen + 1).astype(jnp.float32), 1.0 - decay)
    moved = mean + weight * (value - mean)
    # Not of the value alone: the way between two huge finite ones is infinite.
    return jnp.where(jnp.isfinite(moved) & where, moved, mean)


def count_where(
    seen: Int[Array, "..."], condition: Bool[Array, "..."]
) -> Int[Array, "..."]:
    """Add one where ``condition`` holds; saturates instead of wrapping around."""
    more = jnp.minimum(seen, jnp.iinfo(jnp.int32).max - 1) + 1
    return jnp.where(condition, more, seen)


def running_geometric_mean(
    mean: Float[Array, "..."],
    value: Float[Array, "..."],
    seen: Int[Array, "..."],
    decay: float,
    where: Bool[Array, "..."] | bool = True,
) -> Float[Array, "..."]:
    """Move a mean of positive values as `running_mean` does, on their logarithms.

    One value a million times too large moves it by a few per cent, not by ten
    thousand times.

    Args:
        mean: The mean so far, positive once something was seen.
        value: The new value, >= 0; zero counts as 1e-30.
        seen: How many values the mean holds.
        decay: Memory of the exponential mean, in [0, 1).
        where: Where the value counts.

    Returns:
        The new mean.
    """
    smallest = jnp.float32(1e-30)
    # max(NaN, x) is NaN, so that a NaN is still left out.
    log_value = jnp.log(jnp.maximum(value, smallest))
    log_mean = jnp.log(jnp.maximum(mean, smallest))
    moved = jnp.exp(running_mean(log_mean, log_value, seen, decay))
    return jnp.where(jnp.isfinite(log_value) & where, moved, mean)
