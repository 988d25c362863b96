"""What a run leaves to look at: its health in words, an episode in pictures."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from stabjax.core.haste import jit_once
from stabjax.models.ppo import policy
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import Environment, VectorEnvironment
from stabjax.models.ppo.report import health_text, loss_metrics
from stabjax.models.ppo.rollout import Apply
from stabjax.train_step import TrainState

__all__ = ["artifacts", "follow", "play_episode"]


def artifacts(
    config: Config, vector: VectorEnvironment, apply: Apply, state: TrainState
) -> Mapping[str, str]:
    """Return the pictures of a finished run, where the environment can be drawn.

    ``episode.svg`` shows an episode of the trained policy, without noise, as a strip,
    ``animation.svg`` as a film.
    """
    if not vector.pure or vector.of.draw is None:
        return {}
    # Imported here: matplotlib takes a second that training does not need.
    from stabjax.models.ppo.pictures import film, strip

    episode = play_episode(vector.of, apply, state.params)
    return {
        "episode.svg": strip(vector.of, episode),
        "animation.svg": film(vector.of, episode),
    }


def follow(
    config: Config, environment: Environment, rows: Sequence[Mapping[str, Any]]
) -> tuple[str, Mapping[str, str]]:
    """Return what the original logged while it trained: its health block, its figures.

    Args:
        config: The model's configuration.
        environment: Whose components are named.
        rows: Of telemetry, of the whole run so far.

    Returns:
        The health block of the last iteration, and as files that block
        (``health.txt``) and one entry per iteration (``loss_metrics.json``).
    """
    text = health_text(config, environment, rows)
    entries = json.dumps(loss_metrics(config, environment, rows), indent=1)
    return text, {"health.txt": text, "loss_metrics.json": entries + "\n"}


def play_episode(environment: Environment, apply: Apply, params: Any) -> list[Any]:
    """Return the states of one episode under the most likely actions, on the host."""
    states, over = jax.device_get(_player(environment, apply)(params))
    ended = np.flatnonzero(over)
    length = int(ended[0]) + 1 if len(ended) else len(over)
    return [jax.tree.map(lambda x, at=at: x[at], states) for at in range(length)]


@functools.lru_cache(maxsize=4)
def _player(environment: Environment, apply: Apply) -> Callable[[Any], Any]:
    key_start, key_steps = jax.random.split(jax.random.key(0))

    @jit_once
    def play(params: Any) -> Any:
        def act(carry: Any, key: Any) -> tuple[Any, Any]:
            state, seen = carry
            action = policy.most_likely(environment.actions, apply(params, seen))
            after, step = environment.step(key, state, action)
            over = step.terminated | step.truncated
            return (after, step.observation), (after, over)

        keys = jax.random.split(key_steps, environment.horizon)
        _, (states, over) = jax.lax.scan(act, environment.reset(key_start), keys)
        return states, over

    return play
