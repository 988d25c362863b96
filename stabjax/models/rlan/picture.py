"""Pictures of real test pairs: what was asked and answered, and where it looked."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import matplotlib
import matplotlib.patches
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from stabjax.models.arc import COLORS, PAD
from stabjax.models.drawing import INK, MUTED, RULE, SETTINGS, standalone_svg
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.data import Data, Question, ask, unseen_questions
from stabjax.models.rlan.evaluation import answer, vote
from stabjax.models.rlan.voting import Ballot, crop

__all__ = ["pictures"]

# The colors of the ARC pages.
_PALETTE = ListedColormap(
    ["#000000", "#0074d9", "#ff4136", "#2ecc40", "#ffdc00",
     "#aaaaaa", "#f012be", "#ff851b", "#7fdbff", "#870c25"]
)  # fmt: skip
_MOST = 4  # pictures of a run


class _Scene(NamedTuple):
    """One question with everything that is drawn of it."""

    name: str
    support: list[tuple[np.ndarray, np.ndarray]]
    query: np.ndarray
    target: np.ndarray
    said: np.ndarray
    ballot: Ballot
    attention: np.ndarray
    use: np.ndarray


def pictures(data: Data, config: Config, params: Any) -> Mapping[str, str | bytes]:
    """Return one picture for each of the first few tasks with a test pair.

    Args:
        data: The tasks of the run.
        config: The model's configuration.
        params: Trained parameters.

    Returns:
        File name to SVG.
    """
    tasks = data.train if data.train is not None else data.held_out
    questions = _chosen(list(unseen_questions(tasks)))
    batch = ask(tasks, questions, config)
    replies = answer(config, params, batch)
    ballots = vote(tasks, questions, config, params)
    drawn: dict[str, str | bytes] = {}
    for row, question in enumerate(questions):
        query = batch["query"][row]
        shown = [pair for pair in batch["support"][row] if np.any(pair != PAD)]
        scene = _Scene(
            name=tasks.names[question.task],
            support=[(crop(a, a), crop(b, b)) for a, b in shown],
            query=crop(query, query),
            target=crop(batch["target"][row], batch["target"][row]),
            said=crop(replies.colors[row], query),
            ballot=ballots[row],
            attention=np.stack([crop(x, query) for x in replies.attention[row]]),
            use=replies.use[row],
        )
        drawn[f"task_{scene.name}.svg"] = _draw(scene)
    return drawn


def _chosen(questions: list[Question]) -> list[Question]:
    """Return the first test pair of tasks spread over all of them."""
    first = [question for question in questions if question.pair == 0]
    places = np.linspace(0, len(first) - 1, min(_MOST, len(first))).round()
    return [first[int(place)] for place in places]


def _draw(scene: _Scene) -> str:
    """Draw the demonstrations above, the question and the clues below."""
    clues = len(scene.attention)
    columns = max(2 * len(scene.support), 4 + clues)
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(1.1 * columns, 2.9), layout="constrained")
        axes = figure.subplots(2, columns, squeeze=False)
        for panel in axes.flat:
            panel.axis("off")
        for number, pair in enumerate(scene.support):
            _grid(axes[0, 2 * number], pair[0], f"shown {number + 1}")
            _grid(axes[0, 2 * number + 1], pair[1], "becomes")
        _grid(axes[1, 0], scene.query, "asked")
        _grid(axes[1, 1], scene.target, "right answer")
        _grid(axes[1, 2], scene.said, _verdict(scene.said, scene.target))
        ballot = scene.ballot
        winner = ballot.answers[0] if ballot.answers else np.full_like(scene.said, -1)
        votes = ballot.votes[0] if ballot.votes else 0
        _grid(axes[1, 3], winner, f"vote: {votes} of {ballot.views}")
        for number in range(clues):
            used = scene.use[number]
            title = f"clue {number + 1}: {used:.0%}" if np.isfinite(used) else "no clue"
            _attention(axes[1, 4 + number], scene.attention[number], title)
        return standalone_svg(figure, _description(scene))


def _verdict(said: np.ndarray, target: np.ndarray) -> str:
    cells = int(np.sum(said != target))
    return "said: right" if cells == 0 else f"said: {cells} wrong"


def _description(scene: _Scene) -> str:
    """Say in words what the picture shows."""
    right = "right" if np.array_equal(scene.said, scene.target) else "wrong"
    voted = "right" if scene.ballot.right(scene.target) else "wrong"
    return (
        f"Task {scene.name}: {len(scene.support)} demonstrations, a test query, its "
        f"answer ({right}), the answer by vote ({voted}, consensus "
        f"{scene.ballot.consensus:.0%}) and where {len(scene.attention)} clues looked"
    )


def _grid(axes: Axes, cells: np.ndarray, title: str) -> None:
    """Draw a grid in its colors; a cell without an answer is crossed out."""
    known = np.ma.masked_where((cells < 0) | (cells >= COLORS), cells)
    _canvas(axes, cells.shape, title)
    axes.imshow(known, cmap=_PALETTE, vmin=0, vmax=COLORS - 1, interpolation="nearest")
    for row, column in np.argwhere(np.ma.getmaskarray(known)):
        axes.plot(column, row, marker="x", color=MUTED)


def _attention(axes: Axes, weights: np.ndarray, title: str) -> None:
    """Draw attention as squares whose areas are the weights."""
    _canvas(axes, weights.shape, title)
    for (row, column), weight in np.ndenumerate(weights):
        side = 0.92 * float(np.sqrt(weight))
        corner = (column - side / 2, row - side / 2)
        axes.add_patch(matplotlib.patches.Rectangle(corner, side, side, color=INK))


def _canvas(axes: Axes, shape: tuple[int, ...], title: str) -> None:
    """Prepare axes of one unit per cell, with lines between the cells."""
    height, width = shape
    axes.axis("on")
    axes.set_title(title, fontsize=10, color=INK)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), aspect="equal")
    axes.set_xticks(np.arange(0.5, width - 1), [])
    axes.set_yticks(np.arange(0.5, height - 1), [])
    axes.tick_params(length=0)
    axes.grid(color=RULE, linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_color(RULE)
