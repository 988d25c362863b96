"""What a run leaves to look at: an episode in pictures, its health in words."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from stabjax.core.haste import jit_once
from stabjax.health import decode
from stabjax.models.ppo import policy
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import Environment, VectorEnvironment
from stabjax.models.ppo.report import health_text, loss_metrics
from stabjax.models.ppo.rollout import Apply
from stabjax.train_step import TrainState

__all__ = ["artifacts", "play_episode"]


def artifacts(
    config: Config, vector: VectorEnvironment, apply: Apply, state: TrainState
) -> Mapping[str, str]:
    """Return the files of a finished run.

    ``health.txt`` and ``loss_metrics.json`` hold what the original logged, for the
    iterations that are still on the device; ``episode.svg`` shows an episode of the
    trained policy, without noise, as a strip, ``animation.svg`` as a film.
    """
    ring = state.telemetry
    rows = decode(ring.schema, np.asarray(ring.floats), np.asarray(ring.ints))
    files = {
        "health.txt": health_text(config, vector.of, rows),
        "loss_metrics.json": json.dumps(loss_metrics(config, rows), indent=1) + "\n",
    }
    if vector.pure and vector.of.draw is not None:
        # Imported here: matplotlib takes a second that training does not need.
        from stabjax.models.ppo.pictures import film, strip

        episode = play_episode(vector.of, apply, state.params)
        files["episode.svg"] = strip(vector.of, episode)
        files["animation.svg"] = film(vector.of, episode)
    return files


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
