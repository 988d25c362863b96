"""Find a causal order: move one node at a time to where the likelihood wants it.

A complete acyclic graph in some order explains the data with some noise; the order
under which that noise is most likely is searched by insertion. The weights come for
free (they are regressions), so that the search has no step size, no constraint and
no threshold, and every move is measured exactly.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np

__all__ = ["OrderCost", "OrderSearch", "order_cost", "search_order"]

OrderCost = Literal["variance", "entropy"]

# Hyvarinen (1998): weights of two moments in the approximation of the entropy, and
# the mean of log cosh of a standard normal variable.
LOG_COSH_WEIGHT = 79.047
SKEW_WEIGHT = 7.4129
NORMAL_LOG_COSH = 0.37457
_NORMAL_ENTROPY = 0.5 * (1.0 + np.log(2.0 * np.pi))
_SMALLEST = 1e-12  # of the variance: less is a copy of the columns before it


class OrderSearch(NamedTuple):
    """A causal order that no move of a single node improves.

    Attributes:
        order: All nodes, causes first.
        cost: Cost of the order, lower is better; see `search_order`.
        sweeps: Times all nodes were tried.
        moves: Nodes that were moved.
    """

    order: np.ndarray
    cost: float
    sweeps: int
    moves: int


def search_order(
    data: np.ndarray,
    start: np.ndarray,
    *,
    cost: OrderCost = "entropy",
    max_sweeps: int = 50,
) -> OrderSearch:
    """Move single nodes until no move lowers the cost of the order.

    The cost is a sum over nodes, of the residual of each after a regression on all
    nodes before it:

    - ``"variance"``: its variance. Minimal for the true order if all noises have
      the same variance; the scale of the data matters.
    - ``"entropy"``: its entropy, which sums to the joint entropy plus the mutual
      information of the residuals. Minimal for the true order if the noise is not
      Gaussian, on any scale.

    Args:
        data: Rows of observations [rows, nodes], finite.
        start: The order to start from, all nodes.
        cost: What is summed.
        max_sweeps: Sweeps over all nodes, >= 1.

    Returns:
        The order found. It is a local optimum: no single insertion improves it.

    Raises:
        ValueError: If the order is no permutation, the data are not finite, or an
            argument is out of range.

    Source:
        Entropy: Hyvarinen (1998), NIPS 10, as in DirectLiNGAM, Hyvarinen & Smith
        (2013), JMLR 14. Equal variances: Chen, Drton & Wang (2019), arXiv:1807.03419.
        Insertion: Teyssier & Koller (2005), arXiv:1207.1429, with its swaps of
        neighbors replaced.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> cause = rng.exponential(size=500)
        >>> data = np.stack([cause + rng.exponential(size=500), cause], axis=1)
        >>> search_order(data, np.array([0, 1])).order.tolist()
        [1, 0]
    """
    columns = _check(data, start, cost, max_sweeps)
    measure = _COSTS[cost]
    if cost != "entropy":
        columns = _same_moments(columns)
    order = [int(node) for node in start]
    best, moves, sweeps = float(measure(residuals(columns, order)).sum()), 0, 0
    before = -1
    while moves > before and sweeps < max_sweeps:
        before, sweeps = moves, sweeps + 1
        for node in list(order):
            place, value, rest = _best_place(columns, order, node, measure)
            if value < best - 1e-9 * max(1.0, abs(best)):
                order = [*rest[:place], node, *rest[place:]]
                best, moves = value, moves + 1
    return OrderSearch(np.array(order), best, sweeps, moves)


def order_cost(data: np.ndarray, order: np.ndarray, *, cost: OrderCost) -> float:
    """Return the cost of one order, see `search_order`."""
    columns = _check(data, order, cost, 1)
    return float(_COSTS[cost](residuals(columns, [int(node) for node in order])).sum())


def residuals(columns: np.ndarray, order: list[int]) -> np.ndarray:
    """Return what is left of every column after a regression on those before it.

    Args:
        columns: Centered data [rows, nodes].
        order: The nodes, all or some.

    Returns:
        Residuals in that order [rows, len(order)].
    """
    taken = columns[:, order]
    moments = taken.T @ taken / len(taken)
    moments[np.diag_indices_from(moments)] *= 1.0 + _SMALLEST
    moments[np.diag_indices_from(moments)] += 1e-300
    factor = np.linalg.cholesky(moments)
    return taken @ (np.linalg.inv(factor).T * np.diag(factor))


def _best_place(
    columns: np.ndarray, order: list[int], node: int, measure: Callable
) -> tuple[int, float, list[int]]:
    """Return where ``node`` is cheapest, that cost, and the order without it.

    Before its new place nothing changes; after it, every residual is what it is with
    the node in front of all; its own residual loses one regressor at a time.
    """
    rest = [other for other in order if other != node]
    left = residuals(columns, rest)
    without = measure(left)
    behind = measure(residuals(columns, [node, *rest]))[1:]
    own = columns[:, [node]]
    power = np.maximum((left**2).mean(0), 1e-300)
    explained = left * ((left * own).mean(0) / power)
    itself = measure(np.hstack([own, own - np.cumsum(explained, axis=1)]))
    before = np.concatenate([[0.0], np.cumsum(without)])
    after = np.concatenate([np.cumsum(behind[::-1])[::-1], [0.0]])
    total = before + itself + after
    place = int(np.argmin(total))
    return place, float(total[place]), rest


def _variance(columns: np.ndarray) -> np.ndarray:
    return np.mean(columns**2, axis=0)


def _entropy(columns: np.ndarray) -> np.ndarray:
    spread = np.sqrt(np.maximum(_variance(columns), 1e-300))
    u = columns / spread
    heavy = np.mean(np.logaddexp(u, -u), axis=0) - np.log(2.0) - NORMAL_LOG_COSH
    skew = np.mean(u * np.exp(-0.5 * u**2), axis=0)
    surplus = LOG_COSH_WEIGHT * heavy**2 + SKEW_WEIGHT * skew**2
    return np.log(spread) + _NORMAL_ENTROPY - surplus


_COSTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "variance": _variance,
    "entropy": _entropy,
}


def _same_moments(columns: np.ndarray) -> np.ndarray:
    """Return a square matrix with the second moments of ``columns``.

    Variances of residuals need no more than that, and it has as few rows as nodes.
    """
    _, size, directions = np.linalg.svd(columns, full_matrices=False)
    return size[:, None] * directions * np.sqrt(len(size) / len(columns))


def _check(data: np.ndarray, order: np.ndarray, cost: str, sweeps: int) -> np.ndarray:
    name = "search_order"
    rows = np.asarray(data, float)
    if rows.ndim != 2 or len(rows) < 2 or not np.all(np.isfinite(rows)):
        raise ValueError(
            f"{name}: data must be finite, [rows, nodes] with at least two rows, "
            f"got shape {rows.shape}."
        )
    nodes = rows.shape[1]
    if sorted(int(node) for node in order) != list(range(nodes)):
        raise ValueError(
            f"{name}: start must hold each of 0 to {nodes - 1} once, "
            f"got {np.asarray(order).tolist()}."
        )
    if cost not in get_args(OrderCost):
        names = ", ".join(repr(option) for option in get_args(OrderCost))
        raise ValueError(f"{name}: cost must be one of {names}, got {cost!r}.")
    if isinstance(sweeps, bool) or not isinstance(sweeps, int) or sweeps < 1:
        raise ValueError(
            f"{name}: max_sweeps must be a whole number >= 1, got {sweeps!r}."
        )
    return rows - rows.mean(0)
