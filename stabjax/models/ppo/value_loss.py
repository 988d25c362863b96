"""The value loss of each component, with the bound on how far values move."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.losses import relative_clip, two_hot_cross_entropy
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.values import BINS

__all__ = ["ValueLoss", "clipped", "value_losses"]

_SEED_FLOOR = 1e-8  # what the original adds to |old| instead of a floor


class ValueLoss(NamedTuple):
    """What the value heads are trained by.

    Attributes:
        losses: One per component.
        outside: Share of values beyond the bound; NaN without one.
        dead: Share of values whose gradient the bound made exactly zero.
    """

    losses: Float[Array, " components"]
    outside: Float[Array, ""]
    dead: Float[Array, ""]


def clipped(
    new: Float[Array, "rows components"],
    old: Float[Array, "rows components"],
    deviation: Float[Array, " components"],
    config: Config,
) -> Float[Array, "rows components"]:
    """Return the new values, kept near the old ones as ``config.value_clip`` says.

    ``old + clip(new - old, -limit, limit)`` with ``limit`` the epsilon (absolute),
    that share of ``|old| + 1e-8`` (seed), or of ``max(|old|, deviation)`` (sound).
    """
    epsilon = config.value_clip_epsilon
    if config.value_clip == "absolute":
        return old + jnp.clip(new - old, -epsilon, epsilon)
    if config.value_clip == "seed":
        return relative_clip(new, old, ratio=epsilon, floor=_SEED_FLOOR)[0]
    unit = jnp.broadcast_to(deviation, new.shape)
    return unit * relative_clip(new / unit, old / unit, ratio=epsilon, floor=1.0)[0]


def _limit(old: Array, deviation: Array, config: Config) -> Array:
    """Return how far a value may move."""
    epsilon = config.value_clip_epsilon
    if config.value_clip == "absolute":
        return jnp.full_like(old, epsilon)
    least = jnp.broadcast_to(deviation, old.shape)
    if config.value_clip == "seed":
        least = jnp.full_like(old, _SEED_FLOOR)
    return epsilon * jnp.maximum(jnp.abs(old), least)


def value_losses(
    heads: Float[Array, "rows outputs"],
    old: Float[Array, "rows outputs"],
    target: Float[Array, "rows components"],
    deviation: Float[Array, " components"],
    config: Config,
) -> ValueLoss:
    """Return the loss of each component over a minibatch.

    The squared error, with a bound ``max((new - target)**2, (clipped - target)**2)``:
    a value that moved past the bound toward its target has no gradient, one that
    moved away has all of it. For two-hot heads the cross-entropy.
    """
    nothing = jnp.full((), jnp.nan, jnp.float32)
    if config.normalization == "symlog_two_hot":
        logits = heads.reshape(len(heads), target.shape[1], BINS.size)
        loss = jax.vmap(
            lambda one, aim: two_hot_cross_entropy(one, aim, BINS), in_axes=1
        )(logits, target)
        return ValueLoss(loss, nothing, nothing)
    error = (heads - target) ** 2
    if config.value_clip == "none":
        return ValueLoss(jnp.mean(error, axis=0), nothing, nothing)
    bounded = clipped(heads, old, deviation, config)
    # Not ``bounded != heads``: old + (new - old) is not new to the last bit.
    limit = _limit(old, deviation, config)
    outside: Bool[Array, "rows components"] = jnp.abs(heads - old) > limit
    kept = (bounded - target) ** 2
    return ValueLoss(
        losses=jnp.mean(jnp.maximum(error, kept), axis=0),
        outside=jnp.mean(outside.astype(jnp.float32)),
        dead=jnp.mean((outside & (kept > error)).astype(jnp.float32)),
    )
