"""Linear structural equation models with a known graph, as NOTEARS draws them.

``weights[i, j] != 0`` means i -> j: a row of data solves ``x = x @ weights + noise``.
Everything is numpy and a pure function of the generator that is handed in.
"""

from typing import Literal, get_args

import numpy as np

from stabjax.models.causal.graphs import topological_order

__all__ = ["GraphKind", "Noise", "random_dag", "random_weights", "sample_linear_sem"]

GraphKind = Literal["erdos_renyi", "scale_free"]
Noise = Literal["gaussian", "exponential", "gumbel", "laplace"]

_DRAW = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "gumbel": lambda rng, size: rng.gumbel(size=size),
    "laplace": lambda rng, size: rng.laplace(size=size),
}


def random_dag(
    nodes: int,
    edges_per_node: int,
    rng: np.random.Generator,
    *,
    kind: GraphKind = "erdos_renyi",
) -> np.ndarray:
    """Draw a directed acyclic graph in a random order of its nodes.

    ``"erdos_renyi"`` (ER2 for ``edges_per_node=2``) picks ``nodes * edges_per_node``
    of all pairs, or every pair if there are fewer. ``"scale_free"`` (SF2) lets every
    new node receive ``edges_per_node`` edges from old ones, chosen in proportion to
    their degree (Barabasi and Albert).

    Args:
        nodes: How many, >= 1.
        edges_per_node: Edges over nodes, >= 1.
        rng: Source of randomness.
        kind: How pairs are chosen.

    Returns:
        Boolean adjacency [nodes, nodes].

    Raises:
        ValueError: If a number is out of range or the kind unknown.

    Source:
        Zheng et al. (2018), arXiv:1803.01422, section 5.

    Example:
        >>> graph = random_dag(20, 2, np.random.default_rng(0))
        >>> graph.shape, int(graph.sum())
        ((20, 20), 40)
    """
    _check_count("random_dag", "nodes", nodes)
    _check_count("random_dag", "edges_per_node", edges_per_node)
    _check_choice("random_dag", "kind", kind, get_args(GraphKind))
    draw = _erdos_renyi if kind == "erdos_renyi" else _scale_free
    ordered = draw(nodes, edges_per_node, rng)
    names = rng.permutation(nodes)
    return ordered[np.ix_(names, names)]


def random_weights(
    graph: np.ndarray,
    rng: np.random.Generator,
    *,
    low: float = 0.5,
    high: float = 2.0,
) -> np.ndarray:
    """Draw a weight of size in [low, high] and random sign for every edge.

    Args:
        graph: Boolean adjacency [nodes, nodes].
        rng: Source of randomness.
        low: Smallest size, > 0.
        high: Largest size, >= low.

    Returns:
        Weights [nodes, nodes], float64, zero where there is no edge.

    Raises:
        ValueError: If the range is empty or reaches zero.
    """
    if not 0.0 < low <= high:
        raise ValueError(
            f"random_weights: low and high must satisfy 0 < low <= high, "
            f"got low={low!r}, high={high!r}."
        )
    size = rng.uniform(low, high, graph.shape)
    sign = rng.choice((-1.0, 1.0), graph.shape)
    return np.where(graph, size * sign, 0.0)


def sample_linear_sem(
    weights: np.ndarray,
    rows: int,
    rng: np.random.Generator,
    *,
    noise: Noise = "gaussian",
    scale: float = 1.0,
) -> np.ndarray:
    """Draw rows of ``x = x @ weights + noise``.

    Args:
        weights: Of an acyclic graph, [nodes, nodes].
        rows: How many, >= 1.
        rng: Source of randomness.
        noise: Law of every node's noise; the same scale for all of them. Only
            ``"gaussian"`` and ``"laplace"`` have mean zero.
        scale: Factor on the noise, > 0; the standard deviation of the Gaussian, and
            the scale parameter of the others.

    Returns:
        Data [rows, nodes], float64.

    Raises:
        ValueError: If the graph has a cycle or an argument is out of range.

    Example:
        >>> weights = np.array([[0.0, 2.0], [0.0, 0.0]])
        >>> x = sample_linear_sem(weights, 1000, np.random.default_rng(0))
        >>> np.round(np.var(x, axis=0))
        array([1., 5.])
    """
    _check_count("sample_linear_sem", "rows", rows)
    _check_choice("sample_linear_sem", "noise", noise, get_args(Noise))
    if not (np.isfinite(scale) and scale > 0.0):
        raise ValueError(f"sample_linear_sem: scale must be > 0, got {scale!r}.")
    order = topological_order(weights)
    if order is None:
        raise ValueError("sample_linear_sem: weights must be acyclic, got a cycle.")
    data = scale * _DRAW[noise](rng, (rows, len(weights)))
    for node in order:
        data[:, node] += data @ weights[:, node]
    return data


def _erdos_renyi(nodes: int, edges_per_node: int, rng: np.random.Generator):
    below = np.tril_indices(nodes, -1)
    pairs = len(below[0])
    chosen = rng.choice(pairs, min(pairs, nodes * edges_per_node), replace=False)
    graph = np.zeros((nodes, nodes), bool)
    graph[below[1][chosen], below[0][chosen]] = True  # from the smaller index
    return graph


def _scale_free(nodes: int, edges_per_node: int, rng: np.random.Generator):
    graph = np.zeros((nodes, nodes), bool)
    degree = np.zeros(nodes)
    for node in range(1, nodes):
        share = degree[:node] + 1.0  # so that a node without edges can be chosen
        count = min(node, edges_per_node)
        parents = rng.choice(node, count, replace=False, p=share / share.sum())
        graph[parents, node] = True
        degree[parents] += 1.0
        degree[node] += count
    return graph


def _check_count(function: str, name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{function}: {name} must be a whole number >= 1, got {value!r}."
        )


def _check_choice(function: str, name: str, value: str, allowed: tuple) -> None:
    if value not in allowed:
        names = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"{function}: {name} must be one of {names}, got {value!r}.")
