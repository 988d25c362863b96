"""Exact match on what was trained on, on real test pairs and on unseen tasks."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

from stabjax.models import arc
from stabjax.models.arc import PAD, Tasks
from stabjax.models.modules import graph_of
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.data import (
    Batch,
    Data,
    Questions,
    ask,
    training_questions,
    unseen_questions,
)
from stabjax.models.rlan.objective import describe
from stabjax.models.rlan.procedural import procedural_batch
from stabjax.models.rlan.voting import (
    UNKNOWN,
    Ballot,
    count_votes,
    view_batch,
    views_of,
)

__all__ = ["Replies", "answer", "evaluate", "vote"]

_CHUNK = 256  # rows per call; the last chunk is filled up, so one program serves
_GENERATED = 512  # generated tasks a procedural run is scored on
_SCORING = 7_777_777  # draws what is only scored; no run's seed


class Replies(NamedTuple):
    """Answers to a batch, on the canvas.

    Attributes:
        colors: Of every cell of the query; `PAD` outside, `UNKNOWN` where the logits
            are not finite.
        entropy: Mean over the clues, in [0, 1].
        attention: Of every clue.
        use: Of every clue.
    """

    colors: np.ndarray
    entropy: np.ndarray
    attention: np.ndarray
    use: np.ndarray


def evaluate(data: Data, config: Config, params: Any) -> dict[str, float]:
    """Return all scores; a grid matches if every cell of it does.

    Returns:
        ``train_exact_match``: training pairs, each under eight turns, its own pair
        not shown (``procedural``: new generated tasks);
        ``augmented_exact_match``: the same unturned, in colors outside the pool;
        ``test_exact_match``, ``test_solved``, ``test_pairs``: test pairs, unturned,
        of the trained tasks (``procedural``: of the real tasks);
        ``held_out_exact_match``, ``held_out_solved``, ``held_out_pairs``: all pairs
        of tasks of which nothing was trained on, unturned;
        ``vote_exact_match``, ``vote_solved``, ``vote_two``, ``vote_three``: of the
        test pairs, the answer with most votes, and the two or three with most;
        ``consensus``: share of views that gave the winner;
        ``entropy_gap``: entropy of the clue attention on test and held-out queries
        over that on training queries;
        ``train_pixel_accuracy``, ``test_pixel_accuracy``: share of cells.
    """
    tasks = data.train if data.train is not None else data.held_out
    trained = _trained_batch(data, config)
    test = ask(tasks, unseen_questions(tasks), config)
    held_out = ask(data.held_out, _every(data.held_out), config)
    replies = [answer(config, params, batch) for batch in (trained, test, held_out)]
    right = [
        exact(batch, reply)
        for batch, reply in zip((trained, test, held_out), replies, strict=True)
    ]
    unseen = np.concatenate([replies[1].entropy, replies[2].entropy])
    return {
        "train_exact_match": float(np.mean(right[0])),
        "test_exact_match": float(np.mean(right[1])),
        "test_solved": float(np.sum(right[1])),
        "test_pairs": float(len(right[1])),
        "held_out_exact_match": float(np.mean(right[2])),
        "held_out_solved": float(np.sum(right[2])),
        "held_out_pairs": float(len(right[2])),
        "entropy_gap": float(np.mean(unseen) / max(np.mean(replies[0].entropy), 1e-6)),
        "train_pixel_accuracy": _pixels(trained, replies[0]),
        "test_pixel_accuracy": _pixels(test, replies[1]),
        **_augmented(data, config, params),
        **_votes(tasks, config, params, test),
    }


def vote(
    tasks: Tasks, questions: Questions, config: Config, params: Any
) -> list[Ballot]:
    """Ask every question under all views; return one ballot each."""
    views = views_of(config)
    batch = view_batch(tasks, questions, views, config)
    colors = answer(config, params, batch).colors
    shape = (len(questions), len(views), *colors.shape[1:])
    return [
        count_votes(views, queries, answers)
        for queries, answers in zip(
            batch["query"].reshape(shape), colors.reshape(shape), strict=True
        )
    ]


def answer(config: Config, params: Any, batch: Batch) -> Replies:
    """Answer a batch; only queries and demonstrations are read."""
    rows, network = len(batch["query"]), config.network
    parts = []
    for first in range(0, rows, _CHUNK):
        taken = np.minimum(np.arange(first, first + _CHUNK), rows - 1)
        parts.append(
            jax.device_get(
                _forward(
                    network, params, batch["query"][taken], batch["support"][taken]
                )
            )
        )
    return Replies(*(np.concatenate(x)[:rows] for x in zip(*parts, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    config: Config, params: Any, query: Array, support: Array
) -> tuple[Array, Array, Array, Array]:
    solver = nnx.merge(graph_of(describe(config)), params)
    rows, side = query.shape[:2]
    flat = query.reshape(rows, -1)
    shown = solver.encode(support.reshape(*support.shape[:3], -1))
    said = solver(flat, shown, jnp.float32(config.temperature_end))
    known = jnp.all(jnp.isfinite(said.logits), axis=-1)
    colors = jnp.where(known, jnp.argmax(said.logits, axis=-1), UNKNOWN)
    colors = jnp.where(flat != PAD, colors, PAD)
    return (
        colors.reshape(rows, side, side),
        jnp.mean(said.clues.entropy, axis=1),
        said.clues.attention.reshape(rows, -1, side, side),
        said.use,
    )


def exact(batch: Batch, reply: Replies) -> np.ndarray:
    """Return which answers equal their target, size included."""
    return np.all(reply.colors == batch["target"], axis=(1, 2))


def _pixels(batch: Batch, reply: Replies) -> float:
    cells = batch["target"] != PAD
    return float(np.mean((reply.colors == batch["target"])[cells]))


def _trained_batch(data: Data, config: Config) -> Batch:
    if data.train is not None:
        return ask(data.train, training_questions(data.train), config)
    rng = np.random.default_rng(_SCORING)
    return procedural_batch(config.model_copy(update={"batch": _GENERATED}), rng)


def _every(tasks: Tasks) -> Questions:
    """Return all pairs of tasks that nothing was trained on."""
    return [*training_questions(tasks, turns=(0,)), *unseen_questions(tasks)]


def _augmented(data: Data, config: Config, params: Any) -> dict[str, float]:
    """Score training pairs in colors that are not in the pool."""
    if data.train is None:
        return {}
    questions = training_questions(data.train, turns=(0,))
    drawn = arc.palettes(len(questions) + 1, _SCORING)[1:]
    batch = ask(data.train, questions, config, drawn)
    right = exact(batch, answer(config, params, batch))
    return {"augmented_exact_match": float(np.mean(right))}


def _votes(tasks: Tasks, config: Config, params: Any, test: Batch) -> dict[str, float]:
    """Score the test pairs by vote."""
    questions = unseen_questions(tasks)
    ballots = vote(tasks, questions, config, params)
    targets = [
        target[: np.sum(target[:, 0] != PAD), : np.sum(target[0] != PAD)]
        for target in test["target"]
    ]

    def solved(guesses: int) -> int:
        pairs = zip(ballots, targets, strict=True)
        return sum(ballot.right(target, guesses) for ballot, target in pairs)

    return {
        "vote_exact_match": solved(1) / len(questions),
        "vote_solved": float(solved(1)),
        "vote_two": float(solved(2)),
        "vote_three": float(solved(3)),
        "consensus": float(np.mean([ballot.consensus for ballot in ballots])),
    }
