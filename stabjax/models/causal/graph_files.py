"""A learned graph as files: a list of edges, GraphML, and a picture."""

import csv
import io
from collections.abc import Sequence

import matplotlib
import networkx
import numpy as np

from stabjax.models.causal.graph_picture import draw_graph
from stabjax.models.drawing import SETTINGS, standalone_svg

__all__ = ["graph_artifacts"]


def graph_artifacts(
    scores: np.ndarray,
    names: Sequence[str],
    threshold: float,
    truth: np.ndarray | None = None,
) -> dict[str, str | bytes]:
    """Return the files that describe a graph, for a task's ``artifacts``.

    Args:
        scores: Weight or score of each edge i -> j at (i, j), [nodes, nodes], finite;
            the diagonal is left out.
        names: Of the nodes.
        threshold: An edge is drawn and listed if the size of its score is larger.
        truth: The true graph, if it is known; edges are then told right from wrong,
            and missing ones are drawn.

    Returns:
        ``graph_edges.csv`` with a row per edge, the strongest first; ``graph.graphml``
        for networkx, Gephi, Cytoscape and others; ``graph.svg``.

    Raises:
        ValueError: If the shapes do not fit, or a score is not finite.

    Example:
        >>> files = graph_artifacts(np.array([[0, 0.8], [0, 0]]), ["rain", "wet"], 0.3)
        >>> print(files["graph_edges.csv"].strip())
        cause,effect,score
        rain,wet,0.8
    """
    weights = _check(scores, names, truth)
    found = np.where(np.abs(weights) > threshold, weights, 0.0)
    true = None if truth is None else np.asarray(truth) != 0
    return {
        "graph_edges.csv": _edge_list(found, names, true),
        "graph.graphml": _graphml(found, names, true),
        "graph.svg": _picture(found, names, true),
    }


def _check(
    scores: np.ndarray, names: Sequence[str], truth: np.ndarray | None
) -> np.ndarray:
    weights = np.array(scores, float)
    nodes = len(names)
    for label, matrix in (("scores", weights), ("truth", truth)):
        if matrix is not None and np.shape(matrix) != (nodes, nodes):
            raise ValueError(
                f"graph_artifacts: {label} must be [{nodes}, {nodes}] for {nodes} "
                f"names, got shape {np.shape(matrix)}."
            )
    if not np.all(np.isfinite(weights)):
        raise ValueError("graph_artifacts: scores must be finite.")
    np.fill_diagonal(weights, 0.0)
    return weights


def _edge_list(found: np.ndarray, names: Sequence[str], true: np.ndarray | None) -> str:
    places = np.argwhere(found != 0.0)
    places = places[np.argsort(-np.abs(found[tuple(places.T)]), kind="stable")]
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(["cause", "effect", "score"] + ([] if true is None else ["true"]))
    for cause, effect in places:
        row = [names[cause], names[effect], f"{found[cause, effect]:.6g}"]
        write(row + ([] if true is None else [int(true[cause, effect])]))
    return text.getvalue()


def _graphml(found: np.ndarray, names: Sequence[str], true: np.ndarray | None) -> str:
    graph = networkx.DiGraph()
    for node, name in enumerate(names):
        graph.add_node(node, label=name)
    for cause, effect in np.argwhere(found != 0.0).tolist():
        known = {} if true is None else {"true": bool(true[cause, effect])}
        graph.add_edge(cause, effect, weight=float(found[cause, effect]), **known)
    return "\n".join(networkx.generate_graphml(graph)) + "\n"


def _picture(found: np.ndarray, names: Sequence[str], true: np.ndarray | None) -> str:
    edges = int(np.sum(found != 0.0))
    title = f"A directed graph of {len(names)} nodes and {edges} edges"
    if true is not None:
        right = int(np.sum((found != 0.0) & true))
        title += f", {right} of them right"
    with matplotlib.rc_context(SETTINGS):
        return standalone_svg(draw_graph(found, names, true), title)
