"""Turning on the device is turning on the host."""

import numpy as np
import pytest
from rlan_tiny import hasty

from stabjax.models.arc import PAD, turned
from stabjax.models.rlan.turns import INVERSE, back, turn_cells

SIDE = 4
_turned = hasty(lambda *inputs: turn_cells(*inputs, side=SIDE, outside=PAD))
_back = hasty(lambda *inputs: back(*inputs, side=SIDE))


def _canvas(grid):
    canvas = np.full((SIDE, SIDE), PAD, np.int32)
    canvas[: grid.shape[0], : grid.shape[1]] = grid
    return canvas.reshape(1, -1)


@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("shape", [(4, 4), (2, 3), (1, 4), (3, 1)])
def test_a_grid_is_turned_within_its_own_sides(turn, shape):
    grid = np.random.default_rng(0).integers(0, 10, shape)
    moved = _turned(_canvas(grid), np.array([turn], np.int32))
    np.testing.assert_array_equal(moved, _canvas(turned(grid, turn)))


@pytest.mark.parametrize("turn", range(8))
def test_what_was_computed_on_a_turned_grid_comes_back_cell_by_cell(turn):
    grid = np.arange(6).reshape(2, 3)
    canvas, turns = _canvas(grid), np.array([turn], np.int32)
    real = canvas != PAD
    moved = np.asarray(_turned(canvas, turns))[:, :, None]
    came = np.asarray(_back(moved, real, turns))[:, :, 0]
    np.testing.assert_array_equal(came[real], canvas[real])


def test_the_inverse_undoes_each_turn():
    grid = np.arange(6).reshape(2, 3)
    for turn in range(8):
        undone = turned(turned(grid, turn), int(INVERSE[turn]))
        np.testing.assert_array_equal(undone, grid)


def test_every_row_has_its_own_turn():
    grid = np.arange(9).reshape(3, 3)
    canvas = np.concatenate([_canvas(grid)] * 8)
    moved = _turned(canvas, np.arange(8, dtype=np.int32))
    assert len({bytes(np.asarray(row)) for row in moved}) == 8
