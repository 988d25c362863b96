"""Scores of a graph against values worked out by hand or by counting."""

import itertools

import numpy as np
import pytest

from stabjax.models.causal.metrics import (
    auprc,
    auroc,
    edge_scores,
    f1_score,
    r2_sortability,
    structural_hamming_distance,
    varsortability,
)
from stabjax.models.causal.synthetic import (
    random_dag,
    random_weights,
    sample_linear_sem,
)

CHAIN = np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])


def graph(*edges, nodes=3):
    matrix = np.zeros((nodes, nodes))
    for cause, effect in edges:
        matrix[cause, effect] = -0.7
    return matrix


@pytest.mark.parametrize(
    ("estimate", "shd", "f1"),
    [
        (graph((0, 1), (1, 2)), 0, 1.0),
        (graph(), 2, 0.0),
        (graph((1, 0), (1, 2)), 1, 0.5),  # one reversed
        (graph((0, 1), (1, 0), (1, 2)), 1, 0.8),  # one in both directions
        (graph((0, 1), (0, 2)), 2, 0.5),  # one missing, one added
        (graph((0, 2)), 3, 0.0),
        (graph((0, 1), (1, 2), (2, 2)), 0, 1.0),  # a loop does not count
    ],
)
def test_a_small_graph_scores_what_a_hand_count_gives(estimate, shd, f1):
    assert structural_hamming_distance(estimate, CHAIN) == shd
    assert f1_score(estimate, CHAIN) == pytest.approx(f1)


def test_the_published_figures_of_the_seed_follow_from_one_right_edge():
    truth = np.zeros((13, 13))
    truth[np.triu_indices(13, 1)[0][:13], np.triu_indices(13, 1)[1][:13]] = 1.0
    above = np.argwhere(np.triu(1.0 - truth, 1) > 0)
    estimate = np.zeros((13, 13))
    estimate[tuple(above[:15].T)] = 1.0
    estimate[tuple(np.argwhere(truth > 0)[0])] = 1.0
    scores = edge_scores(estimate, truth)
    assert (scores.edges, scores.true_edges, scores.reversed) == (16, 13, 0)
    assert round(scores.f1, 4) == 0.0690
    assert scores.shd == 27


def test_a_reversed_edge_is_counted_once_and_told():
    scores = edge_scores(CHAIN.T, CHAIN)
    assert (scores.shd, scores.reversed, scores.f1) == (2, 2, 0.0)


def pairs_off_diagonal(matrix):
    return [
        (i, j) for i, j in itertools.product(range(len(matrix)), repeat=2) if i != j
    ]


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_the_chance_that_a_true_edge_outscores_an_absent_one(seed):
    rng = np.random.default_rng(seed)
    truth = random_dag(6, 1, rng)
    scores = rng.integers(0, 4, (6, 6)).astype(float)  # many ties
    places = pairs_off_diagonal(truth)
    true = [scores[p] for p in places if truth[p]]
    absent = [scores[p] for p in places if not truth[p]]
    wins = [(a > b) + 0.5 * (a == b) for a in true for b in absent]
    assert auroc(scores, truth) == pytest.approx(np.mean(wins))


@pytest.mark.parametrize("seed", range(5))
def test_auprc_is_the_step_integral_of_precision_over_recall(seed):
    rng = np.random.default_rng(seed)
    truth = random_dag(6, 1, rng)
    scores = rng.integers(0, 4, (6, 6)).astype(float)
    places = pairs_off_diagonal(truth)
    total = sum(bool(truth[p]) for p in places)
    area, recall = 0.0, 0.0
    for level in sorted({scores[p] for p in places}, reverse=True):
        taken = [bool(truth[p]) for p in places if scores[p] >= level]
        area += (sum(taken) / total - recall) * np.mean(taken)
        recall = sum(taken) / total
    assert auprc(scores, truth) == pytest.approx(area)


def test_scores_of_nothing_to_find_are_nan():
    assert np.isnan(auroc(np.ones((3, 3)), np.zeros((3, 3))))
    assert np.isnan(auprc(np.ones((3, 3)), np.zeros((3, 3))))
    assert np.isnan(varsortability(np.eye(3), np.zeros((3, 3))))


def test_the_variance_of_a_chain_grows_along_all_of_its_paths():
    rows = np.array([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]])
    assert varsortability(rows, CHAIN) == 1.0
    assert varsortability(rows, CHAIN.T) == 0.0
    # Of the paths 0->1, 1->2 and 0->2, the variance falls along the second alone.
    assert varsortability(rows[:, [0, 2, 1]], CHAIN) == pytest.approx(2 / 3)


def test_paths_of_one_start_and_end_count_once_per_length():
    diamond = graph((0, 1), (1, 2), (0, 2))  # 0->2 directly and in two steps
    rows = np.array([[1.0, 2.0, 0.5], [-1.0, -2.0, -0.5]])
    assert varsortability(rows, diamond) == pytest.approx(1 / 4)


def test_standardized_data_have_varsortability_one_half():
    rng = np.random.default_rng(0)
    weights = random_weights(random_dag(10, 2, rng), rng)
    x = sample_linear_sem(weights, 500, rng)
    scaled = (x - x.mean(0)) / x.std(0)
    assert varsortability(x, weights) > 0.85
    assert varsortability(scaled, weights) == 0.5
    assert r2_sortability(scaled, weights) == pytest.approx(r2_sortability(x, weights))


def test_r2_sortability_ranks_by_the_regression_on_all_others():
    rng = np.random.default_rng(1)
    weights = random_weights(random_dag(5, 1, rng), rng)
    x = sample_linear_sem(weights, 300, rng)
    x -= x.mean(0)
    explained = np.empty(5)
    for node in range(5):
        others = np.delete(x, node, axis=1)
        fitted = others @ np.linalg.lstsq(others, x[:, node], rcond=None)[0]
        explained[node] = 1.0 - np.var(x[:, node] - fitted) / np.var(x[:, node])
    # Rows whose variances are the R^2: sorting them is sorting by R^2.
    rows = np.sqrt(explained) * np.array([[1.0], [-1.0]])
    assert r2_sortability(x, weights) == varsortability(rows, weights)


def test_graphs_of_other_shapes_and_nan_are_refused():
    with pytest.raises(ValueError, match="must be square"):
        f1_score(np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(ValueError, match="of one shape"):
        auroc(np.zeros((2, 2)), np.zeros((3, 3)))
    with pytest.raises(ValueError, match="no NaN"):
        structural_hamming_distance(np.full((2, 2), np.nan), np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"data must be \[rows, 3\]"):
        varsortability(np.zeros((5, 2)), np.zeros((3, 3)))
