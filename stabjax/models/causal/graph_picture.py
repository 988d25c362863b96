"""Draw a directed graph: causes at the top, one row per step of the longest path."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, Patch

from stabjax.models.causal.graphs import topological_order
from stabjax.models.drawing import INK, MUTED, RULE, SERIES

__all__ = ["draw_graph"]

_RIGHT, _WRONG = SERIES[0], SERIES[1]


def draw_graph(
    weights: np.ndarray, names: Sequence[str], truth: np.ndarray | None
) -> Figure:
    """Return the picture; call it under ``matplotlib.rc_context(SETTINGS)``.

    An acyclic graph is drawn in rows, every edge pointing down; one with a cycle, or
    without any edge, on a circle. Strong edges are thick. Without a truth, negative
    weights are dashed; with one, wrong edges are dashed in another color, and missing
    ones dotted.

    Args:
        weights: Zero where there is no edge [nodes, nodes].
        names: Of the nodes.
        truth: The true graph or None.
    """
    places = _places(weights)
    rows = len(np.unique(np.round(places[:, 1], 6)))
    longest = max(len(_short(name)) for name in names)
    width = max(5.6, (0.45 + 0.085 * longest) * (1 + _widest(places)))  # inches
    # SVG is drawn at 72 dots per inch, and the boxes below are measured in dots.
    figure = Figure(figsize=(width, max(3.2, 0.95 * rows + 0.6)), dpi=72)
    axes = figure.add_axes((0.02, 0.08, 0.96, 0.9))
    axes.set_axis_off()
    margin = 0.08
    axes.set_xlim(-margin, 1.0 + margin)
    axes.set_ylim(-margin, 1.0 + margin)
    boxes = _labels(axes, places, names)
    figure.draw_without_rendering()  # gives the boxes their sizes; edges end at them
    kinds = _edges(axes, weights, places, boxes, truth)
    _legend(axes, kinds)
    return figure


def _places(weights: np.ndarray) -> np.ndarray:
    """Return where each node goes, in the unit square."""
    nodes = len(weights)
    order = topological_order(weights)
    if order is None or not np.any(weights):
        angle = np.pi / 2 - 2.0 * np.pi * np.arange(nodes) / nodes
        return 0.5 + 0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    depth = np.zeros(nodes, int)
    for node in order.tolist():
        parents = np.flatnonzero(weights[:, node])
        depth[node] = 1 + depth[parents].max() if len(parents) else 0
    across = np.full(nodes, 0.5)
    for level in range(depth.max() + 1):
        members = np.flatnonzero(depth == level)
        # Near their parents, so that fewer edges cross.
        wish = [_wish(node, weights, across) for node in members.tolist()]
        members = members[np.argsort(wish, kind="stable")]
        count = len(members)
        shift = 0.25 / count * (-1) ** level  # no three nodes on one vertical line
        across[members] = (np.arange(count) + 0.5) / count + (shift if level else 0.0)
    down = 1.0 - depth / max(depth.max(), 1)
    return np.stack([across, down], axis=1)


def _wish(node: int, weights: np.ndarray, across: np.ndarray) -> float:
    parents = np.flatnonzero(weights[:, node])
    return float(across[parents].mean()) if len(parents) else 0.5


def _widest(places: np.ndarray) -> int:
    """Return how many nodes the fullest row holds."""
    _, counts = np.unique(np.round(places[:, 1], 6), return_counts=True)
    return int(counts.max())


def _labels(axes: Axes, places: np.ndarray, names: Sequence[str]) -> list[Patch]:
    """Write every name in a box of its own, and return the boxes."""
    look = {"boxstyle": "round,pad=0.3", "facecolor": "none", "edgecolor": RULE}
    boxes = []
    for (x, y), name in zip(places, names, strict=True):
        label = axes.text(
            x, y, _short(name), ha="center", va="center", color=INK, size=9, bbox=look
        )
        box = label.get_bbox_patch()
        assert box is not None
        boxes.append(box)
    return boxes


def _edges(
    axes: Axes,
    weights: np.ndarray,
    places: np.ndarray,
    boxes: list[Patch],
    truth: np.ndarray | None,
) -> dict[str, dict]:
    """Draw every edge, and return the looks that were used by what they mean."""
    largest = max(float(np.abs(weights).max(initial=0.0)), 1e-300)
    drawn = np.abs(weights) / largest
    used: dict[str, dict] = {}
    shown = weights != 0.0 if truth is None else (weights != 0.0) | truth
    loops = np.eye(len(weights), dtype=bool)
    for cause, effect in np.argwhere(shown & ~loops).tolist():
        meaning, look = _look(float(weights[cause, effect]), truth, cause, effect)
        used[meaning] = look
        axes.add_patch(
            FancyArrowPatch(
                places[cause],
                places[effect],
                arrowstyle="-|>",
                mutation_scale=9,
                patchA=boxes[cause],
                patchB=boxes[effect],
                connectionstyle="arc3,rad=0.08",
                linewidth=0.8 + 1.6 * drawn[cause, effect],
                **look,
            )
        )
    return used


def _look(
    weight: float, truth: np.ndarray | None, cause: int, effect: int
) -> tuple[str, dict]:
    if truth is None:
        if weight > 0.0:
            return "positive", {"color": _RIGHT, "linestyle": "-"}
        return "negative", {"color": _WRONG, "linestyle": (0, (4, 1.5))}
    if weight == 0.0:
        return "missing", {"color": MUTED, "linestyle": (0, (1, 1.5))}
    if truth[cause, effect]:
        return "right", {"color": _RIGHT, "linestyle": "-"}
    return "wrong", {"color": _WRONG, "linestyle": (0, (4, 1.5))}


def _legend(axes: Axes, kinds: dict[str, dict]) -> None:
    order = ("right", "wrong", "missing", "positive", "negative")
    handles = [
        Line2D([], [], linewidth=1.6, label=name, **kinds[name])
        for name in order
        if name in kinds
    ]
    if handles:
        axes.legend(
            handles=handles,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=len(handles),
            frameon=False,
            labelcolor=INK,
            fontsize=9,
        )


def _short(name: str, most: int = 16) -> str:
    return name if len(name) <= most else name[: most - 1] + "…"
