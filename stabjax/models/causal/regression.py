"""Which of some candidates a linear regression needs, by the covariance alone."""

import math

import numpy as np

__all__ = ["covariance", "edge_penalty", "regress_along", "select_parents"]


def edge_penalty(rows: int, nodes: int, gamma: float = 1.0) -> float:
    """Return what one more edge must add to twice the log-likelihood.

    ``log(rows) + 2 gamma log(nodes)``: BIC for ``gamma=0``; its extension for many
    candidates for 1, which keeps the expected number of false edges small.

    Args:
        rows: Observations, >= 1.
        nodes: Candidates, >= 1.
        gamma: Weight of the size of the search, >= 0.

    Source:
        Chen & Chen (2008), Biometrika 95, 759-771.
    """
    return math.log(rows) + 2.0 * gamma * math.log(nodes)


def covariance(data: np.ndarray) -> np.ndarray:
    """Return the covariance of the columns, divided by the rows, float64."""
    rows = np.asarray(data, float)
    centered = rows - rows.mean(0)
    return centered.T @ centered / len(rows)


def select_parents(
    moments: np.ndarray, rows: int, target: int, candidates: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Drop candidates from a regression as long as that pays; backward elimination.

    The one whose loss adds least to ``rows log(residual variance)`` goes first, until
    every one left adds more than ``penalty``.

    Args:
        moments: Covariance [nodes, nodes].
        rows: Observations behind it.
        target: The node that is explained.
        candidates: Indices of the nodes that may explain it.
        penalty: See `edge_penalty`.

    Returns:
        The indices kept, ascending, and their least-squares weights.
    """
    kept = np.sort(np.asarray(candidates, int))
    inverse = _inverse(moments[np.ix_(kept, kept)])
    while len(kept):
        weights = inverse @ moments[kept, target]
        residual = max(
            moments[target, target] - weights @ moments[kept, target], 1e-300
        )
        added = weights**2 / np.maximum(np.diag(inverse), 1e-300)
        worst = int(np.argmin(added))
        if rows * math.log1p(added[worst] / residual) > penalty:
            return kept, weights
        left = np.delete(np.arange(len(kept)), worst)
        column = inverse[left, worst]
        inverse = (
            inverse[np.ix_(left, left)]
            - np.outer(column, column) / (inverse[worst, worst])
        )
        kept = kept[left]
    return kept, np.zeros(0)


def regress_along(
    order: np.ndarray, moments: np.ndarray, rows: int, *, gamma: float = 1.0
) -> np.ndarray:
    """Regress every node on those before it and drop the edges that do not pay.

    Args:
        order: All nodes, causes first.
        moments: Covariance [nodes, nodes].
        rows: Observations behind it.
        gamma: See `edge_penalty`.

    Returns:
        Weights [nodes, nodes] of an acyclic graph.
    """
    weights = np.zeros(moments.shape)
    penalty = edge_penalty(rows, len(moments), gamma)
    for place in range(1, len(order)):
        target = int(order[place])
        parents, values = select_parents(moments, rows, target, order[:place], penalty)
        weights[parents, target] = values
    return weights


def _inverse(matrix: np.ndarray) -> np.ndarray:
    # Columns that depend on each other are told apart by a trace of noise.
    noise = 1e-12 * np.diag(matrix) + 1e-300
    return np.linalg.inv(matrix + np.diag(noise))
