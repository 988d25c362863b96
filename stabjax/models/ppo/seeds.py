"""Many random seeds in one program."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from stabjax.models.ppo.iteration import Iteration
from stabjax.train_step import Row, TrainState

__all__ = ["start_seeds", "train_seeds"]


def start_seeds(iteration: Iteration, draw: Any, seeds: Sequence[int]) -> TrainState:
    """Return the first states of all seeds, stacked along a new first axis.

    Drawn one after the other: several batched orthogonal matrices in one mapped
    program can wait for each other for ever on a CPU of two cores.

    Args:
        iteration: From `stabjax.models.ppo.build.assemble`.
        draw: The function from a key to parameters that came with it.
        seeds: Random seeds.
    """
    states = []
    for seed in seeds:
        key_params, key_state = jax.random.split(jax.random.key(seed))
        params = draw(key_params)
        model_state = iteration.first_model_state(params, key_state)
        states.append(iteration.init(params, None, model_state=model_state))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def train_seeds(
    iteration: Iteration, states: TrainState, key: Any, iterations: int
) -> tuple[TrainState, Row]:
    """Train all seeds side by side; to be jitted, with the iteration static.

    Args:
        iteration: Assembled with ``form="select"``: mapped, a branch is one anyway.
        states: From `start_seeds`.
        key: Split over the seeds.
        iterations: How many.

    Returns:
        The states, and their rows ``[iterations, seeds, columns]``.
    """
    count = states.telemetry.ints.shape[0]
    keys = jax.random.split(key, count)
    step = jax.vmap(lambda state, key: iteration.one(state, {}, key))

    def one(states: TrainState, _: None) -> tuple[TrainState, Row]:
        return step(states, keys)

    return jax.lax.scan(one, states, None, length=iterations)
