"""What the last episodes were worth, over a few iterations."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.models.ppo.environment import Environment, VectorStep

__all__ = ["EpisodeLog", "empty_log", "episode_metrics", "logged"]

REMEMBERED = 5  # iterations

# Per iteration: sums of reward, length and successes, and the number of episodes.
EpisodeLog = Float[Array, "remembered 4"]


def empty_log() -> EpisodeLog:
    """Return the log before the first iteration."""
    return jnp.zeros((REMEMBERED, 4), jnp.float32)


def logged(log: EpisodeLog, taken: VectorStep) -> EpisodeLog:
    """Add the episodes that ended in a rollout; forget the oldest iteration."""
    over = taken.step.terminated | taken.step.truncated
    columns = (
        taken.total,
        taken.length.astype(jnp.float32),
        taken.step.success.astype(jnp.float32),
        jnp.ones_like(taken.total),
    )
    row = [jnp.sum(jnp.where(over, column, 0.0)) for column in columns]
    return jnp.concatenate([log[1:], jnp.stack(row)[None]])


def episode_metrics(log: EpisodeLog, of: Environment) -> dict[str, Array]:
    """Return the means over the episodes of the last five iterations.

    ``episode_reward`` is the weighted total; NaN as long as none has ended.
    ``success_rate`` is NaN, not zero, where the environment does not tell: no rule may
    take silence for failure.
    """
    sums = jnp.sum(log, axis=0)
    some = sums[3] > 0.0
    means = jnp.where(some, sums / jnp.where(some, sums[3], 1.0), jnp.nan)
    return {
        "episode_reward": means[0],
        "episode_length": means[1],
        "success_rate": means[2] if of.tells_success else jnp.full((), jnp.nan),
        "episodes": log[-1, 3],
    }
