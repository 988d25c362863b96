"""The generator: the graph it is asked for, the law it names, the same every time."""

import numpy as np
import pytest

from stabjax.models.causal.graphs import (
    is_acyclic,
    smallest_acyclic_threshold,
    topological_order,
)
from stabjax.models.causal.synthetic import (
    random_dag,
    random_weights,
    sample_linear_sem,
)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("seed", range(5))
def test_an_erdos_renyi_graph_has_exactly_its_edges_and_no_cycle(seed):
    graph = random_dag(20, 2, rng(seed))
    assert graph.sum() == 40
    assert is_acyclic(graph)


def test_the_order_of_the_nodes_is_random():
    orders = {tuple(topological_order(random_dag(8, 2, rng(s)))) for s in range(20)}
    assert len(orders) > 15


def test_too_many_edges_give_the_complete_graph():
    assert random_dag(4, 10, rng()).sum() == 6


def test_a_scale_free_graph_has_hubs_that_erdos_renyi_lacks():
    free = random_dag(100, 2, rng(), kind="scale_free")
    even = random_dag(100, 2, rng())
    assert is_acyclic(free)
    assert free.sum() == 2 * 100 - 3  # the first node takes none, the second one
    assert free.sum(1).max() >= 1.5 * even.sum(1).max()


def test_weights_lie_in_their_range_with_both_signs_on_the_edges_alone():
    graph = random_dag(50, 2, rng())
    weights = random_weights(graph, rng(1))
    size = np.abs(weights[graph])
    assert np.array_equal(weights != 0, graph)
    assert 0.5 <= size.min() < 0.55
    assert 1.95 < size.max() <= 2.0
    assert 0.3 < np.mean(weights[graph] > 0) < 0.7


@pytest.mark.parametrize(
    ("noise", "variance", "skewness", "excess"),
    [
        ("gaussian", 1.0, 0.0, 0.0),
        ("exponential", 1.0, 2.0, 6.0),
        ("gumbel", np.pi**2 / 6, 1.14, 2.4),
        ("laplace", 2.0, 0.0, 3.0),
    ],
)
def test_the_noise_has_the_moments_of_its_law(noise, variance, skewness, excess):
    x = sample_linear_sem(np.zeros((1, 1)), 400_000, rng(), noise=noise)[:, 0]
    z = (x - x.mean()) / x.std()
    np.testing.assert_allclose(x.var(), variance, rtol=0.02)
    np.testing.assert_allclose(np.mean(z**3), skewness, atol=0.06)
    np.testing.assert_allclose(np.mean(z**4) - 3.0, excess, atol=0.4)


def test_the_data_solve_the_structural_equations():
    weights = random_weights(random_dag(10, 2, rng()), rng(1))
    x = sample_linear_sem(weights, 200_000, rng(2))
    noise = x - x @ weights
    np.testing.assert_allclose(np.cov(noise.T), np.eye(10), atol=0.02)


def test_the_same_seed_gives_the_same_data():
    def data(seed):
        generator = rng(seed)
        weights = random_weights(random_dag(6, 2, generator), generator)
        return sample_linear_sem(weights, 50, generator)

    np.testing.assert_array_equal(data(3), data(3))
    assert not np.array_equal(data(3), data(4))


def test_a_cycle_has_no_order_and_no_data():
    cycle = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert topological_order(cycle) is None
    assert topological_order(np.eye(2)) is None  # a loop
    with pytest.raises(ValueError, match="sample_linear_sem: weights must be acyclic"):
        sample_linear_sem(cycle, 10, rng())


@pytest.mark.parametrize("seed", range(10))
def test_the_smallest_acyclic_threshold_is_the_smallest(seed):
    weights = rng(seed).normal(size=(6, 6))
    threshold = smallest_acyclic_threshold(weights)
    levels = np.sort(np.abs(weights).ravel())
    lower = levels[levels < threshold]
    assert is_acyclic(np.abs(weights) > threshold)
    assert not any(is_acyclic(np.abs(weights) > level) for level in [0.0, *lower])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: random_dag(0, 2, rng()), "nodes must be a whole number >= 1, got 0"),
        (lambda: random_weights(np.eye(2), rng(), low=0.0), "0 < low <= high"),
        (
            lambda: sample_linear_sem(np.zeros((2, 2)), 5, rng(), scale=np.nan),
            "scale must be > 0",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
