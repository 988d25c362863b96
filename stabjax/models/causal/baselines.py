"""Graphs that anyone gets for free; a learner has to beat them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from stabjax.models.causal.regression import covariance, regress_along

__all__ = [
    "BASELINES",
    "Chance",
    "chance",
    "correlation_graph",
    "empty_graph",
    "sortnregress",
]


class Chance(NamedTuple):
    """What a uniformly random directed graph is expected to score.

    Attributes:
        true_positives: Expected right edges.
        f1: Expected F1 score.
        shd: Expected structural Hamming distance, a reversed edge counted once.
        auroc: 1/2.
        auprc: Share of true edges among ordered pairs.
    """

    true_positives: float
    f1: float
    shd: float
    auroc: float
    auprc: float


def chance(edges: int, true_edges: int, nodes: int) -> Chance:
    """Return the expected scores of ``edges`` random ordered pairs.

    With N = nodes (nodes - 1) ordered pairs, a pair of nodes agrees with the truth if
    the estimate holds its one true edge and not the reverse, or neither if there is
    none; expectations are exact for edges drawn without replacement.

    Args:
        edges: Found edges, in [0, N].
        true_edges: Edges of an acyclic truth, in [0, N / 2].
        nodes: How many, >= 2.

    Raises:
        ValueError: If a number is out of range.

    Example:
        >>> round(chance(edges=16, true_edges=13, nodes=13).true_positives, 2)
        1.33
    """
    pairs = nodes * (nodes - 1)
    for name, value, high in (
        ("edges", edges, pairs),
        ("true_edges", true_edges, pairs // 2),
    ):
        if nodes < 2 or not 0 <= value <= high:
            raise ValueError(
                f"chance: {name} must be in [0, {high}] for {nodes} nodes (>= 2), "
                f"got {value!r}."
            )
    hits = edges * true_edges / pairs
    both = pairs * (pairs - 1)
    agrees_on_edge = edges * (pairs - edges) / both
    agrees_on_none = (pairs - edges) * (pairs - edges - 1) / both
    without = pairs // 2 - true_edges
    agreeing = true_edges * agrees_on_edge + without * agrees_on_none
    total = edges + true_edges
    return Chance(
        true_positives=hits,
        f1=2.0 * hits / total if total else 0.0,
        shd=pairs // 2 - agreeing,
        auroc=0.5,
        auprc=true_edges / pairs,
    )


def empty_graph(data: np.ndarray, edges: int) -> np.ndarray:
    """Return the graph without edges; its distance is the number of true ones.

    Args:
        data: Rows of observations, [rows, nodes].
        edges: Not used; every baseline takes the same arguments.
    """
    del edges
    nodes = np.shape(data)[1]
    return np.zeros((nodes, nodes))


def correlation_graph(data: np.ndarray, edges: int) -> np.ndarray:
    """Connect the pairs of largest absolute correlation, from the smaller variance.

    Args:
        data: Rows of observations, [rows, nodes].
        edges: How many pairs are connected.

    Returns:
        Correlations at the edges [nodes, nodes], zero elsewhere. Equal variances
        point from the smaller index.
    """
    moments = covariance(data)
    variance = np.diag(moments)
    spread = np.sqrt(np.where(variance > 0.0, variance, 1.0))
    correlation = moments / np.outer(spread, spread)
    above = np.triu_indices(len(moments), 1)
    order = np.argsort(-np.abs(correlation[above]), kind="stable")[:edges]
    graph = np.zeros(moments.shape)
    for one, two in zip(above[0][order], above[1][order], strict=True):
        cause, effect = (two, one) if variance[two] < variance[one] else (one, two)
        graph[cause, effect] = correlation[one, two]
    return graph


def sortnregress(data: np.ndarray, edges: int = 0) -> np.ndarray:
    """Sort the nodes by variance and regress each on those before it.

    Edges are chosen by backward elimination under the extended BIC (the original
    takes the Lasso path under BIC). What it finds, the scale of the data gives away.

    Args:
        data: Rows of observations, [rows, nodes].
        edges: Not used; every baseline takes the same arguments.

    Returns:
        Weights of an acyclic graph [nodes, nodes].

    Source:
        Reisach, Seiler & Weichwald (2021), arXiv:2102.13647, section 4.
    """
    del edges
    moments = covariance(data)
    order = np.argsort(np.diag(moments), kind="stable")
    return regress_along(order, moments, len(data))


BASELINES: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "empty": empty_graph,
    "correlation": correlation_graph,
    "sortnregress": sortnregress,
}
