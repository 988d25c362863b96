"""How far a graph is from the true one, and how much a data set gives away.

Graphs are [nodes, nodes] with an edge i -> j at (i, j); the diagonal is left out.
"""

from typing import NamedTuple

import numpy as np

__all__ = [
    "EdgeScores",
    "auprc",
    "auroc",
    "edge_scores",
    "f1_score",
    "r2_sortability",
    "structural_hamming_distance",
    "varsortability",
]


class EdgeScores(NamedTuple):
    """What directed edges were found, and what that amounts to.

    Attributes:
        shd: Structural Hamming distance, see `structural_hamming_distance`.
        f1: Harmonic mean of precision and recall.
        precision: Share of the found edges that are true; 0 if none was found.
        recall: Share of the true edges that were found; 0 if there is none.
        edges: Found edges.
        true_edges: True edges.
        reversed: Pairs found in the wrong direction alone.
    """

    shd: int
    f1: float
    precision: float
    recall: float
    edges: int
    true_edges: int
    reversed: int


def edge_scores(estimate: np.ndarray, truth: np.ndarray) -> EdgeScores:
    """Compare the directed edges of two graphs.

    Args:
        estimate: Found graph; every entry that is not zero is an edge.
        truth: True graph.

    Raises:
        ValueError: If the shapes differ or are not square, or an entry is NaN.
    """
    found, true = _edges("edge_scores", estimate, truth)
    right = int(np.sum(found & true))
    precision = right / max(int(found.sum()), 1)
    recall = right / max(int(true.sum()), 1)
    wrong_way = found & true.T & ~true & ~found.T
    return EdgeScores(
        shd=structural_hamming_distance(found, true),
        f1=2.0 * right / max(int(found.sum() + true.sum()), 1),
        precision=precision,
        recall=recall,
        edges=int(found.sum()),
        true_edges=int(true.sum()),
        reversed=int(wrong_way.sum()),
    )


def structural_hamming_distance(estimate: np.ndarray, truth: np.ndarray) -> int:
    """Count the pairs of nodes between which the graphs differ.

    An edge missing, added or reversed counts one each. Where a reversed edge is to
    count twice, as wrong and as missing, add `EdgeScores.reversed`.

    Args:
        estimate: Found graph; every entry that is not zero is an edge.
        truth: True graph.

    Example:
        >>> truth = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])
        >>> structural_hamming_distance(truth.T, truth)
        2
    """
    found, true = _edges("structural_hamming_distance", estimate, truth)
    differs = found != true
    return int(np.sum(np.triu(differs | differs.T)))


def f1_score(estimate: np.ndarray, truth: np.ndarray) -> float:
    """Return ``2 TP / (2 TP + FP + FN)`` over directed edges; 0 without any edge."""
    return edge_scores(estimate, truth).f1


def auroc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the chance that a true edge outscores an absent one; ties count half.

    Args:
        scores: Larger means more likely, [nodes, nodes]; the diagonal is left out.
        truth: True graph.

    Returns:
        The area under the ROC curve over ordered pairs, or NaN if the graph is empty
        or complete.

    Example:
        >>> truth = np.array([[0, 1], [0, 0]])
        >>> auroc(np.array([[9.0, 2.0], [1.0, 9.0]]), truth)
        1.0
    """
    value, true = _scores_and_labels("auroc", scores, truth)
    positive, negative = int(true.sum()), int((~true).sum())
    if not positive or not negative:
        return float("nan")
    _, place, size = np.unique(value, return_inverse=True, return_counts=True)
    rank = np.cumsum(size) - (size - 1) / 2.0  # of a group of ties: their mean
    above = rank[place][true].sum() - positive * (positive + 1) / 2.0
    return float(above / (positive * negative))


def auprc(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the average precision, ``sum (recall step) * precision``.

    Ties are taken together. A random ranking scores the share of true edges.

    Args:
        scores: Larger means more likely, [nodes, nodes]; the diagonal is left out.
        truth: True graph.

    Returns:
        The area under the precision-recall curve, or NaN if the graph is empty.
    """
    value, true = _scores_and_labels("auprc", scores, truth)
    if not true.any():
        return float("nan")
    levels, place = np.unique(-value, return_inverse=True)
    hits = np.bincount(place, weights=true, minlength=len(levels))
    taken = np.bincount(place, minlength=len(levels))
    precision = np.cumsum(hits) / np.cumsum(taken)
    return float(np.sum(hits / true.sum() * precision))


def varsortability(data: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of causal paths along which the variance grows.

    At 1, sorting by variance finds the causal order; at 1/2 it says nothing. Raw data
    of simulated models are close to 1, which is what least-squares scores live on;
    standardized data are at 1/2 exactly, all variances being equal.

    Args:
        data: Rows of observations, [rows, nodes].
        truth: True graph.

    Returns:
        The share over all directed paths, by start, end and length; NaN for an empty
        graph. Two variances within a billionth of each other count half.

    Source:
        Reisach, Seiler & Weichwald (2021), arXiv:2102.13647, equation 1.
    """
    return _sortability(np.var(_rows("varsortability", data, truth), axis=0), truth)


def r2_sortability(data: np.ndarray, truth: np.ndarray) -> float:
    """Return the share of causal paths along which the explained variance grows.

    As `varsortability`, with the R^2 of each node regressed on all others in the
    place of its variance, which standardization does not remove.

    Args:
        data: Rows of observations, [rows, nodes].
        truth: True graph.

    Returns:
        The share over all directed paths; NaN for an empty graph.

    Source:
        Reisach, Tami, Seiler, Chambaz & Weichwald (2023), arXiv:2303.18211.
    """
    rows = _rows("r2_sortability", data, truth)
    return _sortability(_explained(rows), truth)


def _explained(rows: np.ndarray) -> np.ndarray:
    """Return the R^2 of every column regressed on the others, by the precision."""
    spread = np.std(rows, axis=0)
    scaled = (rows - rows.mean(0)) / np.where(spread > 0.0, spread, 1.0)
    correlation = scaled.T @ scaled / len(rows)
    precision = np.diag(np.linalg.pinv(correlation, hermitian=True))
    return 1.0 - 1.0 / np.maximum(precision, 1.0)


def _sortability(level: np.ndarray, truth: np.ndarray) -> float:
    edges = np.asarray(truth) != 0
    tolerance = 1e-9 * np.maximum(level[:, None], level[None, :])
    rises = level[None, :] - level[:, None] > tolerance
    equal = np.abs(level[None, :] - level[:, None]) <= tolerance
    credit = np.where(equal, 0.5, rises.astype(float))
    paths, right, total = edges, 0.0, 0
    for _ in range(len(edges) - 1):
        right += float(credit[paths].sum())
        total += int(paths.sum())
        paths = (paths.astype(int) @ edges.astype(int)) > 0
    return right / total if total else float("nan")


def _edges(function: str, *graphs: np.ndarray) -> list[np.ndarray]:
    matrices = [np.asarray(graph) for graph in graphs]
    shape = matrices[0].shape
    if len(shape) != 2 or shape[0] != shape[1]:
        raise ValueError(f"{function}: a graph must be square, got shape {shape}.")
    for matrix in matrices:
        if matrix.shape != shape:
            raise ValueError(
                f"{function}: graphs must be of one shape, got {shape} and "
                f"{matrix.shape}."
            )
        if np.isnan(matrix.astype(float)).any():
            raise ValueError(f"{function}: a graph must hold no NaN.")
    off = ~np.eye(shape[0], dtype=bool)
    return [(matrix != 0) & off for matrix in matrices]


def _scores_and_labels(function: str, scores: np.ndarray, truth: np.ndarray):
    _, true = _edges(function, scores, truth)
    off = ~np.eye(len(true), dtype=bool)
    return np.asarray(scores, float)[off], true[off]


def _rows(function: str, data: np.ndarray, truth: np.ndarray) -> np.ndarray:
    rows = np.asarray(data, float)
    nodes = len(truth)
    if rows.ndim != 2 or rows.shape[1] != nodes or len(rows) < 2:
        raise ValueError(
            f"{function}: data must be [rows, {nodes}] with at least two rows, "
            f"got shape {rows.shape}."
        )
    return rows
