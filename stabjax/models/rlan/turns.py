"""Turning grids on a canvas, with a turn of its own for every row, inside a program.

A grid lies at the corner of its canvas and is turned within its own sides, as
`stabjax.models.arc.turned` does on the host; `stabjax.losses.dihedral` turns the whole
canvas, by a turn that must be known when it is traced.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

__all__ = ["INVERSE", "back", "sizes", "turn_cells"]

INVERSE = np.array([0, 3, 2, 1, 4, 5, 6, 7], np.int32)  # turn that undoes each turn

# Turn t as: transposed, rows reversed, columns reversed (of the grid it came from).
_TRANSPOSED = np.array([0, 1, 0, 1, 1, 0, 1, 0], bool)
_ROWS = np.array([0, 0, 1, 1, 0, 0, 1, 1], bool)
_COLUMNS = np.array([0, 1, 1, 0, 0, 1, 1, 0], bool)


def sizes(
    real: Bool[Array, "rows cells"], side: int
) -> tuple[Int[Array, " rows"], Int[Array, " rows"]]:
    """Return how many rows and columns each grid has."""
    square = real.reshape(len(real), side, side)
    height = jnp.sum(square[:, :, 0], axis=1, dtype=jnp.int32)
    width = jnp.sum(square[:, 0, :], axis=1, dtype=jnp.int32)
    return height, width


def _sources(
    height: Int[Array, " rows"],
    width: Int[Array, " rows"],
    turn: Int[Array, " rows"],
    side: int,
) -> tuple[Int[Array, "rows cells"], Bool[Array, "rows cells"]]:
    """Return where each cell of the turned canvas came from, and which are cells."""
    cell = jnp.arange(side * side, dtype=jnp.int32)[None]
    down, right = cell // side, cell % side
    transposed = jnp.asarray(_TRANSPOSED)[turn][:, None]
    height, width = height[:, None], width[:, None]
    inside = (down < jnp.where(transposed, width, height)) & (
        right < jnp.where(transposed, height, width)
    )
    row = jnp.where(transposed, right, down)
    column = jnp.where(transposed, down, right)
    row = jnp.where(jnp.asarray(_ROWS)[turn][:, None], height - 1 - row, row)
    column = jnp.where(jnp.asarray(_COLUMNS)[turn][:, None], width - 1 - column, column)
    return jnp.where(inside, row * side + column, 0), inside


def turn_cells(
    cells: Int[Array, "rows cells"],
    turn: Int[Array, " rows"],
    *,
    side: int,
    outside: int,
) -> Int[Array, "rows cells"]:
    """Turn each row's grid by its own turn; 0 to 7 as in `stabjax.models.arc.turned`.

    Args:
        cells: Flat canvases; a cell equal to ``outside`` is not part of a grid.
        turn: Turn of each row.
        side: Side of the canvas.
        outside: Color beyond the grid.
    """
    height, width = sizes(cells != outside, side)
    source, inside = _sources(height, width, turn, side)
    return jnp.where(inside, jnp.take_along_axis(cells, source, axis=1), outside)


def back(
    turned: Shaped[Array, "rows cells features"],
    original: Bool[Array, "rows cells"],
    turn: Int[Array, " rows"],
    *,
    side: int,
) -> Shaped[Array, "rows cells features"]:
    """Bring what was computed on turned grids back to the cells of the ``original``.

    Args:
        turned: Features on the canvas of the turned grid.
        original: Which cells belonged to the grid before it was turned.
        turn: Turn that had been applied to each row.
        side: Side of the canvas.

    Returns:
        Features cell by cell; arbitrary where ``original`` is False.
    """
    height, width = sizes(original, side)
    inverse = jnp.asarray(INVERSE)[turn]
    transposed = jnp.asarray(_TRANSPOSED)[turn]
    source, _ = _sources(
        jnp.where(transposed, width, height),
        jnp.where(transposed, height, width),
        inverse,
        side,
    )
    return jnp.take_along_axis(turned, source[:, :, None], axis=1)
