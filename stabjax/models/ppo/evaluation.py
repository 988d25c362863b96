"""Episodes without noise, from start to end."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stabjax.models.ppo import policy
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import VectorEnvironment, vectorize
from stabjax.models.ppo.rollout import Apply
from stabjax.train_step import TrainState

__all__ = ["make_evaluation"]


def make_evaluation(
    config: Config, vector: VectorEnvironment, apply: Apply, seed: int
) -> Callable[[TrainState], dict[str, float]]:
    """Return the function from a train state to scores.

    ``eval_reward``, ``eval_length`` and ``eval_success_rate`` are means over the first
    episode of each of ``config.evaluation_episodes`` environments, with the most
    likely action at every step, the same starts every time. ``eval_reward_std`` is
    their deviation. An environment on the host is not evaluated: NaN.
    """
    if not vector.pure:
        names = ("eval_reward", "eval_reward_std", "eval_length", "eval_success_rate")
        return lambda state: {name: float("nan") for name in names}
    episodes = vectorize(
        vector.of, config.evaluation_episodes, reward_scale=config.reward_scale
    )

    @jax.jit
    def play(params: Any) -> dict[str, Array]:
        key_start, key_steps = jax.random.split(jax.random.key(seed))

        def act(carry: Any, keys: Any) -> tuple[Any, None]:
            state, (total, length, success), running = carry
            answer = apply(params, state.observation)
            action = policy.most_likely(vector.of.actions, answer)
            state, taken = episodes.step(keys, state, action)
            step = taken.step
            held = (
                jnp.where(running, taken.total, total),
                jnp.where(running, taken.length, length),
                jnp.where(running, step.success, success),
            )
            return (state, held, running & ~(step.terminated | step.truncated)), None

        state = episodes.reset(jax.random.split(key_start, episodes.count))
        ended = jnp.zeros_like(state.total, jnp.bool_)
        carry = (state, (state.total, state.length, ended), ~ended)
        shape = (vector.of.horizon, 2, episodes.count)
        keys = jax.random.split(key_steps, shape)
        (_, (total, length, success), _), _ = jax.lax.scan(act, carry, keys)
        return {
            "eval_reward": jnp.mean(total),
            "eval_reward_std": jnp.std(total),
            "eval_length": jnp.mean(length.astype(jnp.float32)),
            "eval_success_rate": jnp.mean(success.astype(jnp.float32)),
        }

    def evaluate(state: TrainState) -> dict[str, float]:
        scores: dict[str, Array] = jax.device_get(play(state.params))
        return {name: float(value) for name, value in scores.items()}

    return evaluate
