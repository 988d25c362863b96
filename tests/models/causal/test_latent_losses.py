"""The seed's four losses against their formulas, and what they cannot see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax.models.causal.objective import (
    mean_correlation,
    reconstruction_error,
    short_cycles,
)
from stabjax.models.causal.sweep import THRESHOLDS, score_graph

# One compiled program each, in haste and for one shape: most of the time is XLA.
HASTY = {"xla_backend_optimization_level": 0}
NODES, ROWS, CODES = 13, 2000, 48
cycles = jax.jit(jax.value_and_grad(short_cycles), compiler_options=HASTY)
correlation = jax.jit(jax.value_and_grad(mean_correlation), compiler_options=HASTY)
sweep = jax.jit(
    lambda adjacency, truth: score_graph(adjacency, truth, THRESHOLDS),
    compiler_options=HASTY,
)


def cycle(length, nodes=13, weight=0.6):
    graph = np.zeros((nodes, nodes), np.float32)
    for node in range(length):
        graph[node, (node + 1) % length] = weight
    return jnp.asarray(graph)


@pytest.mark.parametrize("reduction", ["before", "seed", "sound"])
def test_the_reconstruction_is_reduced_as_the_setting_says(reduction):
    values = jnp.array([[[1.0, 2.0], [3.0, 4.0]]])
    wrong = jnp.array([[[2.0, 9.0], [3.0, 2.0]]])
    observed = jnp.array([[[1.0, 0.0], [1.0, 1.0]]])
    error = reconstruction_error(wrong, values, observed, reduction)
    expected = {"before": 5.0, "seed": 5.0 / 4.0, "sound": 5.0 / 3.0}
    assert float(error) == pytest.approx(expected[reduction])


def test_a_missing_value_of_any_size_neither_counts_nor_pulls():
    values = jnp.array([[[1.0, jnp.nan]]])
    observed = jnp.array([[[1.0, 0.0]]])

    def error(x):
        return reconstruction_error(x, values, observed, "sound")

    value, slope = jax.value_and_grad(error)(jnp.array([[[3.0, 5.0]]]))
    assert float(value) == 4.0
    np.testing.assert_array_equal(slope, [[[4.0, 0.0]]])


def test_cycles_of_up_to_three_edges_are_seen_and_longer_ones_are_not():
    for length in (1, 2, 3):
        assert float(cycles(cycle(length))[0]) > 1e-4
    for length in (4, 5, 13):
        value, slope = cycles(cycle(length))
        assert abs(float(value)) < 1e-5
        on_cycle = np.asarray(slope)[np.asarray(cycle(length)) != 0.0]
        np.testing.assert_array_equal(on_cycle, 0.0)


def test_short_cycles_is_the_polynomial_of_the_seed():
    graph = np.random.default_rng(0).uniform(0.0, 1.0, (NODES, NODES))
    base = np.eye(NODES) + graph / NODES
    expected = np.trace(np.linalg.matrix_power(base, 3)) - NODES
    value, _ = cycles(jnp.asarray(graph, jnp.float32))
    assert float(value) == pytest.approx(expected, rel=1e-5)


def test_the_correlation_is_that_of_whole_pairs_of_blocks():
    rng = np.random.default_rng(1)
    codes = rng.normal(size=(ROWS, CODES)) @ rng.normal(size=(CODES, CODES))
    blocks = np.split(codes, 3, axis=1)
    expected = sum(
        np.abs(np.corrcoef(np.concatenate([blocks[a], blocks[b]], axis=1).T)).mean()
        for a, b in ((0, 1), (0, 2), (1, 2))
    )
    value, _ = correlation(jnp.asarray(codes, jnp.float32))
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_independent_codes_stay_above_the_floor_of_the_diagonal():
    codes = np.random.default_rng(3).normal(size=(ROWS, CODES)).astype(np.float32)
    value, _ = correlation(jnp.asarray(codes))
    floor = 3.0 / 32.0
    assert floor < float(value) < floor + 0.06


def test_a_constant_code_counts_as_uncorrelated_and_stays_finite():
    codes = np.random.default_rng(4).normal(size=(ROWS, CODES)).astype(np.float32)
    # Copied: JAX on CPU may read the array itself, and later than this.
    whole, _ = correlation(jnp.array(codes))
    codes[:, 2] = 5.0
    value, slope = correlation(jnp.array(codes))
    # Its one on the diagonal counted in two pairs of blocks.
    assert float(whole - value) > 2.0 / 32.0**2
    assert np.all(np.isfinite(np.asarray(slope)))


def _by_hand(adjacency, truth):
    best = (-1.0, None)
    for threshold in THRESHOLDS:
        found = adjacency > threshold
        hits = np.sum(found & truth)
        f1 = 2.0 * hits / max(found.sum() + truth.sum(), 1)
        if f1 > best[0]:
            best = (f1, threshold)
    found = adjacency > best[1]
    return best[0], np.sum(found != truth), found.sum(), best[1]


def test_the_sweep_takes_the_first_threshold_of_highest_f1():
    rng = np.random.default_rng(5)
    for _ in range(20):
        adjacency = rng.uniform(0.0, 1.0, (NODES, NODES)).astype(np.float32)
        truth = rng.random((NODES, NODES)) < 0.2
        score = sweep(jnp.asarray(adjacency), jnp.asarray(truth, jnp.float32))
        expected = _by_hand(adjacency, truth)
        np.testing.assert_allclose([float(x) for x in score], expected, rtol=1e-6)


def test_a_top_k_graph_has_the_best_threshold_zero_of_the_seed():
    """All of its entries are above one half: nothing is left to be tuned."""
    adjacency = np.zeros((NODES, NODES), np.float32)
    adjacency.flat[[5 + 10 * place for place in range(16)]] = 0.53
    truth = np.zeros((NODES, NODES), np.float32)
    truth.flat[[5, *(6 + 10 * place for place in range(12))]] = 1.0
    score = sweep(jnp.asarray(adjacency), jnp.asarray(truth))
    # One of thirteen edges found, fifteen wrong: the figures that the seed reports.
    assert float(score.threshold) == 0.0
    assert float(score.f1) == pytest.approx(0.0690, abs=5e-5)
    assert float(score.shd) == 27.0
    assert float(score.edges) == 16.0


def test_nothing_found_leaves_the_threshold_at_one_half():
    adjacency, truth = np.zeros((2, NODES, NODES), np.float32)
    adjacency[0, 1], truth[2, 3] = 0.9, 1.0
    score = sweep(jnp.asarray(adjacency), jnp.asarray(truth))
    assert float(score.threshold) == 0.5
    assert float(score.shd) == 2.0


def test_without_a_truth_the_scores_are_not_known_and_edges_are_counted():
    adjacency = np.zeros((NODES, NODES), np.float32)
    adjacency[0, 1] = 0.9
    score = score_graph(jnp.asarray(adjacency), None, THRESHOLDS)
    assert np.isnan(float(score.f1))
    assert np.isnan(float(score.shd))
    assert float(score.edges) == 1.0
