"""Episodes without noise, from start to end."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from stabjax.models.ppo import policy
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import VectorEnvironment, vectorize
from stabjax.models.ppo.environments import make_environment
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
    their deviation. The rate is NaN where the environment does not tell success.
    """

    @functools.cache
    def environments() -> VectorEnvironment:
        """Return as many as there are episodes, made when first they are needed."""
        count = config.evaluation_episodes
        if vector.pure:
            return vectorize(vector.of, count, reward_scale=config.reward_scale)
        # Those that are trained in are in the midst of their episodes, on the host.
        return make_environment(config.model_copy(update={"num_envs": count}))

    @jax.jit
    def play(params: Any) -> dict[str, Array]:
        episodes = environments()
        key_start, key_steps = jax.random.split(jax.random.key(seed))

        def go_on(carry: Any) -> Bool[Array, ""]:
            time, _, _, running = carry
            return (time < vector.of.horizon) & jnp.any(running)

        def act(carry: Any) -> Any:
            time, state, (total, length, success), running = carry
            answer = apply(params, state.observation)
            action = policy.most_likely(vector.of.actions, answer)
            keys = jax.random.fold_in(key_steps, time)
            keys = jax.random.split(keys, (2, episodes.count))
            state, taken = episodes.step(keys, state, action)
            step = taken.step
            held = (
                jnp.where(running, taken.total, total),
                jnp.where(running, taken.length, length),
                jnp.where(running, step.success, success),
            )
            running = running & ~(step.terminated | step.truncated)
            return time + 1, state, held, running

        state = episodes.reset(jax.random.split(key_start, episodes.count))
        ended = jnp.zeros_like(state.total, jnp.bool_)
        held = (state.total, state.length, ended)
        carry = (jnp.zeros((), jnp.int32), state, held, ~ended)
        _, _, (total, length, success), _ = jax.lax.while_loop(go_on, act, carry)
        rate = jnp.mean(success.astype(jnp.float32))
        unknown = jnp.full((), jnp.nan, jnp.float32)
        return {
            "eval_reward": jnp.mean(total),
            "eval_reward_std": jnp.std(total),
            "eval_length": jnp.mean(length.astype(jnp.float32)),
            "eval_success_rate": rate if vector.of.tells_success else unknown,
        }

    def evaluate(state: TrainState) -> dict[str, float]:
        scores: dict[str, Array] = jax.device_get(play(state.params))
        return {name: float(value) for name, value in scores.items()}

    return evaluate
