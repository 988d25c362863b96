"""From a configuration to a task the runner can train."""

from collections.abc import Sequence
from typing import Any

from stabjax.models.causal.config import Config
from stabjax.models.causal.dataset import load_dataset
from stabjax.models.causal.latent_task import build_latent
from stabjax.models.causal.structural_task import build_structural
from stabjax.models.task import Task
from stabjax.train_step import SnapshotMemory

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
        window: Rows of telemetry kept on the device [steps]; the latent decoder keeps
            at least an epoch of them.
        seed: Draws the batches, and the synthetic sensors unless
            ``model.data.graph_seed`` does; parameters come from the key of ``init``.
        snapshot_every: Steps between good states kept for a rollback.
        snapshot_memory: Where they lie, see `stabjax.train_step.make_train_step`.

    Raises:
        FileNotFoundError: If the table is a file that is not there.
        ImportError: If the data need a package that is missing.
        ValueError: If the table does not fit the configuration.
    """
    dataset = load_dataset(config, seed=seed)
    builder = build_latent if config.decoder == "latent" else build_structural
    return builder(
        config,
        dataset,
        optimizer=optimizer,
        guards=guards,
        window=window,
        seed=seed,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )
