"""From a configuration to a task the runner can train."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from stabjax.core.haste import jit_once
from stabjax.models.gan.config import Config
from stabjax.models.gan.data import Data, load_data
from stabjax.models.gan.evaluation import (
    evaluate,
    generate_events,
    judged_parameters,
)
from stabjax.models.gan.events import Events, batch_at
from stabjax.models.gan.model import Players
from stabjax.models.gan.objective import initial_state, make_loss
from stabjax.models.gan.optimizer import per_player
from stabjax.models.gan.pictures import event_pictures
from stabjax.models.modules import initial_parameters
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
    """Build the task: the guarded step, its start, its batches, scores and pictures.

    Args:
        config: The model's configuration.
        optimizer: An optax transformation; each player gets its own.
        guards: Guards of the step; None for the plain, unguarded one.
        window: Rows of telemetry kept on the device [steps].
        seed: Draws the batches; parameters come from the key given to ``init``.
        snapshot_every: Steps between good states kept for a rollback.
        snapshot_memory: Where they lie, see `stabjax.train_step.make_train_step`.

    Raises:
        ImportError: If the generator of the data is missing.
        ValueError: If an option is out of range.
    """
    data = load_data(config)
    sizes = {
        "conditions": len(data.schema.conditions),
        "features": len(data.schema.features),
    }
    train = make_train_step(
        make_loss(config, **sizes, minimum=data.minimum),
        per_player(config, optimizer),
        guards=guards,
        window=window,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )

    def batches(position: int) -> Events:
        return batch_at(data.train, config.batch, seed=seed, position=position)

    def init(key: Any) -> Any:
        params = first_parameters(config, **sizes)(key)
        state = initial_state(config, params)
        return train.init(params, batches(0), model_state=state)

    return Task(
        train=train,
        init=init,
        batch_at=batches,
        evaluate=lambda state: evaluate(config, data, _judged(state)),
        artifacts=lambda state: _pictures(config, data, state),
    )


def _judged(state: Any) -> Any:
    return judged_parameters(state.params, state.model_state.average)


def _pictures(config: Config, data: Data, state: Any) -> Mapping[str, str | bytes]:
    generated = generate_events(config, data, _judged(state))
    return event_pictures(data.real, generated, data.schema)


@functools.cache
def first_parameters(
    config: Config, conditions: int, features: int
) -> Callable[[Any], Any]:
    """Return the jitted function from a key to the parameters, one per configuration.

    It runs once, so on CPU it is compiled in haste: drawing every leaf by itself
    takes three times as long.
    """

    def draw(key: Any) -> Any:
        rngs = nnx.Rngs(params=key)
        return initial_parameters(Players(config, conditions, features, rngs))

    return jit_once(draw)
