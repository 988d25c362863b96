"""From learned weights to an acyclic graph: by threshold, and by a search from there.

What the gradient found is not acyclic to the last digit. Cut at the smallest
threshold that makes it so, it gives an order of the nodes; the search moves single
nodes for as long as the likelihood grows, and regressions along the order it ends
with decide which edges pay. No step looks at a true graph.
"""

from typing import NamedTuple

import numpy as np

from stabjax.models.causal.graphs import (
    is_acyclic,
    smallest_acyclic_threshold,
    topological_order,
)
from stabjax.models.causal.order_search import search_order
from stabjax.models.causal.regression import covariance, regress_along
from stabjax.models.causal.structural_config import Structural

__all__ = ["LearnedGraph", "learned_graph"]


class LearnedGraph(NamedTuple):
    """An acyclic graph and how it was come by; edges i -> j at (i, j).

    Attributes:
        weights: The result [nodes, nodes], acyclic.
        thresholded: What the gradient found, above ``threshold`` [nodes, nodes].
        lagged: Weights of earlier rows [lags, nodes, nodes].
        acyclic_threshold: Smallest size of a weight at which the gradient's graph is
            acyclic; 0 if it is as it stands.
        threshold: What was used: that, or the configured one if it is larger.
        fixed_is_acyclic: Whether the configured threshold alone was enough.
        moves: Nodes that the search of the order moved.
    """

    weights: np.ndarray
    thresholded: np.ndarray
    lagged: np.ndarray
    acyclic_threshold: float
    threshold: float
    fixed_is_acyclic: bool
    moves: int


def learned_graph(
    weights: np.ndarray,
    rows: np.ndarray,
    config: Structural,
    *,
    lagged: np.ndarray | None = None,
    past: np.ndarray | None = None,
) -> LearnedGraph:
    """Return the acyclic graph that the weights lead to.

    Args:
        weights: Learned [nodes, nodes]; the diagonal is left out.
        rows: The training rows [rows, nodes], finite.
        config: Threshold, and whether to search on.
        lagged: Learned weights of earlier rows [lags, nodes, nodes].
        past: Those rows [rows, lags, nodes].

    Raises:
        ValueError: If a weight is not finite, or lags were learned without ``past``.
    """
    nodes = len(weights)
    found = np.where(np.eye(nodes, dtype=bool), 0.0, np.asarray(weights, float))
    lowest = smallest_acyclic_threshold(found)
    level = max(lowest, config.threshold)
    lags = np.zeros((0, nodes, nodes)) if lagged is None else np.asarray(lagged, float)
    result = LearnedGraph(
        weights=_above(found, level),
        thresholded=_above(found, level),
        lagged=_above(lags, config.threshold),
        acyclic_threshold=lowest,
        threshold=level,
        fixed_is_acyclic=is_acyclic(np.abs(found) > config.threshold),
        moves=0,
    )
    if config.refine == "none":
        return result
    start = topological_order(np.abs(found) > lowest)
    assert start is not None
    return _refined(result, np.asarray(rows, float), past, start, config)


def _refined(
    result: LearnedGraph,
    rows: np.ndarray,
    past: np.ndarray | None,
    start: np.ndarray,
    config: Structural,
) -> LearnedGraph:
    nodes = rows.shape[1]
    lags = len(result.lagged)
    innovation, response = rows - rows.mean(0), np.zeros((lags, nodes, nodes))
    if lags:
        if past is None:
            raise ValueError("learned_graph: past must be given with lagged, got None.")
        # Of x_t = x_t W + x_{t-k} V_k + e, regressions on the past leave e (I - W)^-1.
        before = np.reshape(past, (len(rows), lags * nodes))
        before = before - before.mean(0)
        solution = np.linalg.lstsq(before, innovation, rcond=None)[0]
        innovation = innovation - before @ solution
        response = solution.reshape(lags, nodes, nodes)
    search = search_order(innovation, start, cost=config.order_cost)
    weights = regress_along(
        search.order, covariance(innovation), len(rows), gamma=config.edge_penalty
    )
    direct = response @ (np.eye(nodes) - weights)
    return result._replace(
        weights=weights, lagged=_above(direct, config.threshold), moves=search.moves
    )


def _above(weights: np.ndarray, level: float) -> np.ndarray:
    return np.where(np.abs(weights) > level, weights, 0.0)
