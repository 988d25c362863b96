"""Order and cycles of a directed graph; ``matrix[i, j] != 0`` is an edge i -> j."""

import numpy as np

__all__ = ["is_acyclic", "smallest_acyclic_threshold", "topological_order"]


def topological_order(matrix: np.ndarray) -> np.ndarray | None:
    """Return the nodes, causes first, or None if the graph has a cycle.

    Kahn's algorithm; among nodes that are free the smallest index comes first.

    Args:
        matrix: Weights or adjacency [nodes, nodes]; a loop is a cycle.

    Example:
        >>> topological_order(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]])).tolist()
        [2, 1, 0]
    """
    edges = np.asarray(matrix) != 0
    waiting = edges.sum(0)
    order: list[int] = []
    free = np.flatnonzero(waiting == 0).tolist()
    while free:
        node = free.pop(0)
        order.append(node)
        for child in np.flatnonzero(edges[node]):
            waiting[child] -= 1
            if waiting[child] == 0:
                free.append(int(child))
        free.sort()
    return np.array(order, int) if len(order) == len(edges) else None


def is_acyclic(matrix: np.ndarray) -> bool:
    """Tell whether the graph has no directed cycle, self-loops included."""
    return topological_order(matrix) is not None


def smallest_acyclic_threshold(weights: np.ndarray) -> float:
    """Return the smallest t >= 0 for which the edges with ``|weight| > t`` are acyclic.

    Args:
        weights: [nodes, nodes], finite.

    Returns:
        Zero, or the size of the last weight that has to go.

    Raises:
        ValueError: If a weight is not finite.

    Example:
        >>> smallest_acyclic_threshold(np.array([[0.0, 2.0], [-0.1, 0.0]]))
        0.1
    """
    size = np.abs(np.asarray(weights, float))
    if not np.all(np.isfinite(size)):
        raise ValueError("smallest_acyclic_threshold: weights must be finite.")
    levels = np.concatenate([[0.0], np.unique(size[size > 0.0])])
    low, high = 0, len(levels) - 1  # above the largest weight nothing is left
    while low < high:
        middle = (low + high) // 2
        if is_acyclic(size > levels[middle]):
            high = middle
        else:
            low = middle + 1
    return float(levels[low])
