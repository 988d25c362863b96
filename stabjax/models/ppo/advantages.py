"""Generalized advantage estimates, one per reward component."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

__all__ = ["component_advantages", "explained_variance"]


def component_advantages(
    rewards: Float[Array, "steps envs components"],
    values: Float[Array, "steps envs components"],
    next_values: Float[Array, "steps envs components"],
    terminated: Bool[Array, "steps envs"],
    over: Bool[Array, "steps envs"],
    *,
    gamma: float,
    gae_lambda: float,
) -> Float[Array, "steps envs components"]:
    """Return the advantage of each step in each component, in the unit of rewards.

    ``d[t] = r[t] + gamma v'[t] - v[t]`` and ``A[t] = d[t] + gamma lambda A[t+1]``;
    ``v'`` counts as zero where the episode terminated, and the sum stops wherever it
    is over. The estimate is linear in (r, v): the weighted sum of the components'
    advantages is the advantage of the weighted reward.

    Args:
        rewards: Rewards, in their own unit.
        values: Values of the states the actions were taken in, in the same unit.
        next_values: Values of the states they led to, before any reset.
        terminated: Nothing would follow.
        over: The episode ended here, terminated or cut off.
        gamma: Discount per step, [0, 1].
        gae_lambda: Decay of later surprises, [0, 1].

    Returns:
        Advantages; add ``values`` for the returns.

    Source:
        Schulman et al. (2016), arXiv:1506.02438.
    """
    follows = jnp.where(terminated[..., None], 0.0, next_values)
    surprises = rewards + gamma * follows - values
    decay = jnp.where(over, 0.0, gamma * gae_lambda)

    def backward(later: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        surprise, keep = now
        advantage = surprise + keep[:, None] * later
        return advantage, advantage

    last = jnp.zeros_like(surprises[0])
    _, advantages = jax.lax.scan(
        backward, last, (surprises, decay), reverse=True, unroll=8
    )
    return advantages


def explained_variance(
    values: Float[Array, "rows *components"], returns: Float[Array, "rows *components"]
) -> Float[Array, "*components"]:
    """Return ``1 - var(returns - values) / var(returns)`` over the rows.

    One for a perfect critic, zero for a constant; NaN where the returns are constant.
    Per component: pooled over components of unlike means a critic that knows the
    means alone scores near one.

    Example:
        >>> returns = jnp.array([1.0, 2.0, 3.0])
        >>> float(explained_variance(jnp.array([1.0, 2.0, 4.0]), returns))
        0.6666666865348816
    """
    spread = jnp.var(returns, axis=0)
    unexplained = jnp.var(returns - values, axis=0)
    share = unexplained / jnp.where(spread > 0.0, spread, 1.0)
    return jnp.where(spread > 0.0, 1.0 - share, jnp.nan)
