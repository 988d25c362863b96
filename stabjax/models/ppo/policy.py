"""Actions as random variables: sample from given noise, score, measure entropy."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.models.ppo.environment import Actions
from stabjax.models.ppo.network import Answer

__all__ = ["draw_noise", "entropy", "log_density", "most_likely", "sample"]

_LOG_TWO_PI = 1.8378770664093453


def draw_noise(actions: Actions, key: Any, shape: tuple[int, ...]) -> Array:
    """Draw what `sample` needs, for a whole rollout in one go.

    Args:
        actions: What the agent may do.
        key: A key.
        shape: Leading shape, such as (steps, envs).

    Returns:
        Standard normal or Gumbel numbers, ``[*shape, actions.size]``.
    """
    shape = (*shape, actions.size)
    if actions.kind == "continuous":
        return jax.random.normal(key, shape, jnp.float32)
    return jax.random.gumbel(key, shape, jnp.float32)


def sample(actions: Actions, answer: Answer, noise: Array) -> Array:
    """Return actions drawn from the policy by the noise.

    Normal with the mean and deviation of ``answer``, or, by the Gumbel-max trick,
    categorical; int32 without the last axis then.
    """
    if actions.kind == "continuous":
        return answer.policy + _row(jnp.exp(answer.log_std), noise) * noise
    return jnp.argmax(answer.policy + noise, axis=-1).astype(jnp.int32)


def most_likely(actions: Actions, answer: Answer) -> Array:
    """Return the mode of the policy."""
    if actions.kind == "continuous":
        return answer.policy
    return jnp.argmax(answer.policy, axis=-1).astype(jnp.int32)


def log_density(
    actions: Actions, answer: Answer, taken: Array
) -> Float[Array, "*batch"]:
    """Return the log-density or log-probability of actions [nat]."""
    if actions.kind == "continuous":
        log_std = _row(answer.log_std, taken)
        scores = (taken - answer.policy) * jnp.exp(-log_std)
        return -0.5 * jnp.sum(scores**2 + 2.0 * log_std + _LOG_TWO_PI, axis=-1)
    chances = jax.nn.log_softmax(answer.policy)
    return jnp.take_along_axis(chances, taken[..., None], axis=-1)[..., 0]


def entropy(actions: Actions, answer: Answer) -> Float[Array, ""]:
    """Return the mean entropy of the policy over the batch [nat]."""
    if actions.kind == "continuous":
        return jnp.sum(answer.log_std + 0.5 * (1.0 + _LOG_TWO_PI))
    chances = jax.nn.log_softmax(answer.policy)
    return -jnp.mean(jnp.sum(jnp.exp(chances) * chances, axis=-1))


def _row(vector: Array, like: Array) -> Array:
    return jnp.broadcast_to(vector, like.shape)
