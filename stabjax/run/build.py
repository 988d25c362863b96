"""From a configuration to a task and its first state."""

import contextlib
import importlib
import re
from collections.abc import Iterator
from typing import Any

from stabjax.config.errors import ConfigError
from stabjax.config.optimizers import build_optimizer
from stabjax.config.schema import RunConfig, build_guards


def build_task(config: RunConfig) -> Any:
    """Build the `stabjax.models.task.Task` a configuration describes.

    Raises:
        ConfigError: If the model refuses a value or a combination of values.
    """
    models = importlib.import_module("stabjax.models").MODELS
    module = importlib.import_module(models[config.model_name])
    optimizer = build_optimizer(config.optimizer, source=config.source)
    guards = build_guards(config)
    with _refusals(config):
        return module.build(
            config.model,
            optimizer=optimizer,
            guards=guards,
            window=config.train.window,
            seed=config.train.seed,
            snapshot_every=config.train.snapshot_every,
            snapshot_memory=config.train.snapshot_memory,
        )


def first_state(task: Any, key: Any, run_key: Any, config: RunConfig) -> Any:
    """Return the task's first train state, after tracing one step with it.

    The trace is kept for the first real step. It finds what only shows there: a guard
    that names parameters the model lacks, a batch of another shape.

    Raises:
        ConfigError: If the pieces of the configuration do not fit.
    """
    with _refusals(config):
        state = task.init(key)
        task.train.step.trace(state, task.batch_at(0), run_key)
    return state


@contextlib.contextmanager
def _refusals(config: RunConfig) -> Iterator[None]:
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        # Ours start with the function that refuses; others are bugs and keep their
        # traceback.
        if re.match(r"[A-Za-z_.]+: ", str(error)):
            raise ConfigError(f"{config.source}: {error}") from error
        raise
