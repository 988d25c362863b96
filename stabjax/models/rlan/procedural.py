"""Generated tasks: a turn and a recoloring of random grids.

Trained on these alone, a solver can be tested on real tasks without a leak: eleven
training tasks of ARC-1 are exactly this.
"""

import numpy as np

from stabjax.models.arc import COLORS, PAD, turned
from stabjax.models.rlan.config import Config

__all__ = ["REAL_TASKS", "procedural_batch"]

# Every ARC-1 training task that one turn and one recoloring solve.
REAL_TASKS = (
    "0d3d703e", "3c9b0459", "6150a2bd", "67a3c6ac", "68b16354", "74dd1130",
    "9dfd6313", "b1948b0a", "c8f0f002", "d511f180", "ed36ccf7",
)  # fmt: skip

_SMALLEST = 3  # side of a generated grid [cells]


def procedural_batch(config: Config, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Draw queries of as many new tasks.

    A task is a turn, or none, and a permutation of some colors, or none; at least one
    of both. Turns that change the size of a grid are drawn for square ones, so that
    outputs have the size of their inputs.

    Returns:
        ``query``, ``target`` and ``support`` as of
        `stabjax.models.rlan.data.training_batch`.
    """
    pairs = config.demonstrations + 1
    side = config.grid
    grids = np.full((config.batch, pairs, 2, side, side), PAD, np.int32)
    for row in range(config.batch):
        turn, colors = _rule(rng)
        for pair in range(pairs):
            cells = _grid(rng, side, square=turn in (1, 3, 4, 6))
            height, width = cells.shape
            grids[row, pair, 0, :height, :width] = cells
            grids[row, pair, 1, :height, :width] = colors[turned(cells, turn)]
    return {
        "query": grids[:, 0, 0],
        "target": grids[:, 0, 1],
        "support": grids[:, 1:],
    }


def _rule(rng: np.random.Generator) -> tuple[int, np.ndarray]:
    """Draw a turn and a recoloring, not both of them nothing."""
    turn = int(rng.integers(8))
    colors = np.arange(COLORS)
    if turn == 0 or rng.random() < 0.5:
        moved = rng.choice(COLORS, size=int(rng.integers(2, COLORS + 1)), replace=False)
        colors[moved] = np.roll(moved, 1)
    return turn, colors


def _grid(rng: np.random.Generator, side: int, *, square: bool) -> np.ndarray:
    """Draw a grid of few colors, some of it black."""
    height, width = rng.integers(min(_SMALLEST, side), side + 1, size=2)
    if square:
        width = height
    kinds = rng.choice(COLORS, size=int(rng.integers(1, 5)), replace=False)
    cells = rng.choice(kinds, size=(int(height), int(width)))
    black = rng.random(cells.shape) < rng.choice([0.0, 0.3, 0.6])
    return np.where(black, 0, cells)
