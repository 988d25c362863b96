"""Test-time augmentation: ask under every turn and several colorings, and vote."""

import collections
from typing import NamedTuple

import numpy as np

from stabjax.models import arc
from stabjax.models.arc import PAD, Tasks, turned
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.data import Batch, Question, Questions, ask
from stabjax.models.rlan.turns import INVERSE

__all__ = [
    "UNKNOWN", "Ballot", "View", "count_votes", "crop", "undo", "view_batch",
    "views_of",
]  # fmt: skip

UNKNOWN = -1  # a cell whose logits are not finite


class View(NamedTuple):
    """One way to look at a task."""

    turn: int
    colors: np.ndarray  # new color of each color, `PAD` included


class Ballot(NamedTuple):
    """The answers to one query, most votes first.

    Attributes:
        answers: Different grids; the first seen wins a tie.
        votes: How many views gave each.
        views: Number of views asked.
    """

    answers: list[np.ndarray]
    votes: list[int]
    views: int

    @property
    def consensus(self) -> float:
        """Share of views that gave the winner, in [0, 1]."""
        return self.votes[0] / self.views if self.votes else 0.0

    def right(self, target: np.ndarray, guesses: int = 1) -> bool:
        """Return whether one of the first ``guesses`` answers is the target."""
        return any(np.array_equal(answer, target) for answer in self.answers[:guesses])


def views_of(config: Config) -> list[View]:
    """Return the eight turns under every coloring of the vote; the first is no change.

    The colorings are the first of the pool with the configuration's seed.
    """
    colorings = arc.palettes(config.vote_palettes, config.palette_seed)
    return [View(turn, colors) for colors in colorings for turn in range(8)]


def view_batch(
    tasks: Tasks, questions: Questions, views: list[View], config: Config
) -> Batch:
    """Return every question under every view, question by question."""
    rows = [
        Question(question.task, view.turn, question.pair, question.test)
        for question in questions
        for view in views
    ]
    colors = np.stack([view.colors for _ in questions for view in views])
    return ask(tasks, rows, config, colors)


def undo(view: View, answer: np.ndarray) -> np.ndarray:
    """Return an answer as it would be without the view.

    Args:
        view: What was asked.
        answer: Its grid, cropped to the size of the turned query.
    """
    inverse = np.argsort(view.colors)
    known = np.where(answer == UNKNOWN, UNKNOWN, inverse[np.clip(answer, 0, PAD)])
    return turned(known, int(INVERSE[view.turn]))


def count_votes(views: list[View], queries: np.ndarray, answers: np.ndarray) -> Ballot:
    """Count the answers to one query.

    A view with an unknown cell has no vote, so a broken network has no consensus.

    Args:
        views: The views, in the order of the rows.
        queries: Query under each view (view, side, side); tells the size.
        answers: Colors of each answer (view, side, side).
    """
    votes: collections.Counter[tuple[tuple[int, ...], bytes]] = collections.Counter()
    grids: dict[tuple[tuple[int, ...], bytes], np.ndarray] = {}
    for view, query, answer in zip(views, queries, answers, strict=True):
        grid = undo(view, crop(answer, query))
        if np.any(grid == UNKNOWN):
            continue
        name = (grid.shape, np.ascontiguousarray(grid).tobytes())
        votes[name] += 1
        grids.setdefault(name, grid)
    ranked = votes.most_common()
    return Ballot(
        [grids[name] for name, _ in ranked],
        [number for _, number in ranked],
        len(views),
    )


def crop(canvas: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Cut the grid of the query's size out of the corner of a canvas."""
    height = int(np.sum(query[:, 0] != PAD))
    width = int(np.sum(query[0] != PAD))
    return canvas[:height, :width]
