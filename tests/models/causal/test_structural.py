"""The structural loss and what becomes of its weights: terms, lags, an acyclic end."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

from stabjax.models.causal.graph_result import learned_graph
from stabjax.models.causal.graphs import is_acyclic
from stabjax.models.causal.metrics import edge_scores
from stabjax.models.causal.regression import covariance
from stabjax.models.causal.search import fit_many
from stabjax.models.causal.structural import (
    _short_cycles,
    first_weights,
    make_structural_loss,
)
from stabjax.models.causal.structural_config import Structural
from stabjax.models.causal.synthetic import (
    random_dag,
    random_weights,
    sample_linear_sem,
)

KEY = jax.random.key(0)


def sample(seed, nodes=6, rows=500, noise="gaussian"):
    rng = np.random.default_rng(seed)
    weights = random_weights(random_dag(nodes, 2, rng), rng)
    data = sample_linear_sem(weights, rows, rng, noise=noise)
    return weights, data - data.mean(0)


@functools.cache
def compiled(config):
    loss = make_structural_loss(config)
    return jax.jit(lambda p, b, step: loss(p, b, KEY, step=step))


def loss_of(config, params, batch, step=0):
    return compiled(config)(params, batch, jnp.int32(step))


def loss_and_slope(config, params, batch):
    both = jax.jit(jax.value_and_grad(make_structural_loss(config), has_aux=True))
    (value, _), slope = both(params, batch, KEY, step=jnp.int32(0))
    return value, slope


def rows_batch(data, **more):
    values = jnp.asarray(data, jnp.float32)
    return {"values": values, "observed": jnp.ones_like(values), **more}


def params_of(weights, **more):
    return {"weights": jnp.asarray(weights, jnp.float32), **more}


@pytest.mark.parametrize("score", ["ev", "evlog"])
def test_second_moments_give_the_loss_and_gradient_of_the_rows(score):
    weights, data = sample(0)
    config, params = Structural(score=score), params_of(0.3 * weights)
    moments = {"moments": jnp.asarray(covariance(data), jnp.float32)}
    one, slope = loss_and_slope(config, params, moments)
    other, other_slope = loss_and_slope(config, params, rows_batch(data))
    assert float(one) == pytest.approx(float(other), rel=1e-4)
    np.testing.assert_allclose(
        slope["weights"], other_slope["weights"], rtol=1e-3, atol=1e-3
    )


def test_the_path_scales_score_and_sparsity_and_moves_the_bound():
    weights, data = sample(1)
    config = Structural(
        score="evlog", stage_steps=10, mu=(1.0, 0.01), bounds=(1.0, 0.5)
    )
    cyclic = params_of(0.1 * weights + 0.1 * weights.T)
    _, first = loss_of(config, cyclic, rows_batch(data), step=9)
    _, second = loss_of(config, cyclic, rows_batch(data), step=10)
    _, later = loss_of(config, cyclic, rows_batch(data), step=1000)
    for name in ("score", "sparsity"):
        assert float(second[f"raw/{name}"]) == float(first[f"raw/{name}"])
        ratio = float(second[f"weighted/{name}"] / first[f"weighted/{name}"])
        assert ratio == pytest.approx(0.01)
    assert float(second["raw/acyclicity"]) > float(first["raw/acyclicity"])
    assert float(later["raw/acyclicity"]) == float(second["raw/acyclicity"])


def test_the_diagonal_has_no_say_and_no_gradient():
    weights, data = sample(2)
    config = Structural(score="entropy")
    batch = rows_batch(data)
    loops = params_of(0.3 * weights + 5.0 * np.eye(6))
    value, slope = loss_and_slope(config, loops, batch)
    plain, _ = loss_of(config, params_of(0.3 * weights), batch)
    assert float(value) == pytest.approx(float(plain), rel=1e-5)
    assert np.all(np.diag(slope["weights"]) == 0.0)
    assert np.any(slope["weights"] != 0.0)


def test_the_loss_is_infinite_outside_the_domain():
    _, data = sample(3)
    cycle = np.zeros((6, 6))
    cycle[0, 1] = cycle[1, 0] = 1.1
    value, _ = loss_of(Structural(score="evlog"), params_of(cycle), rows_batch(data))
    assert float(value) == np.inf


def test_the_seeds_measure_sees_no_cycle_of_four():
    ring = jnp.roll(jnp.eye(4), 1, axis=1)
    three = jnp.zeros((4, 4)).at[0, 1].set(1.0).at[1, 2].set(1.0).at[2, 0].set(1.0)
    assert float(_short_cycles(ring)) == 0.0
    share = jnp.linalg.matrix_power(jnp.eye(4) + three / 4, 3)
    assert float(_short_cycles(three)) == pytest.approx(float(jnp.trace(share)) - 4)
    _, data = sample(4, nodes=4)
    seed = Structural(score="evlog", acyclicity="seed")
    _, aux = loss_of(seed, params_of(three), rows_batch(data))
    expected = 1e-5 * float(_short_cycles(three))
    assert float(aux["weighted/acyclicity"]) == pytest.approx(expected)
    _, aux = loss_of(
        Structural(score="evlog", acyclicity="before"),
        params_of(three),
        rows_batch(data),
    )
    assert "raw/acyclicity" not in aux


def series(rows=4000):
    """Return a series of three nodes: 0 -> 1 at once, 1 -> 2 one row later."""
    rng = np.random.default_rng(0)
    noise = rng.exponential(size=(rows, 3)) - 1.0
    x = noise.copy()
    for t in range(1, rows):
        x[t, 0] += 0.5 * x[t - 1, 0]
        x[t, 1] += 0.8 * x[t, 0]
        x[t, 2] += 0.7 * x[t - 1, 1]
    return x[1:], x[:-1][:, None, :]


def test_lagged_edges_are_told_from_those_within_a_row():
    now, past = series()
    config = Structural(score="entropy", lags=1, threshold=0.2)
    graph = learned_graph(
        np.zeros((3, 3)), now, config, lagged=np.zeros((1, 3, 3)), past=past
    )
    within = np.zeros((3, 3))
    within[0, 1] = 0.8
    before = np.zeros((3, 3))
    before[0, 0], before[1, 2] = 0.5, 0.7
    np.testing.assert_allclose(graph.weights, within, atol=0.05)
    np.testing.assert_allclose(graph.lagged[0], before, atol=0.05)


def test_true_lagged_weights_have_less_loss_than_none():
    now, past = series(rows=400)
    config = Structural(score="entropy", lags=1, sparsity=0.0)
    batch = rows_batch(now, past=jnp.asarray(past, jnp.float32))
    params = {"weights": jnp.zeros((3, 3)), "lagged": jnp.zeros((1, 3, 3))}
    nothing, _ = loss_of(config, params, batch)
    params["weights"] = params["weights"].at[0, 1].set(0.8)
    within, _ = loss_of(config, params, batch)
    params["lagged"] = params["lagged"].at[0, 0, 0].set(0.5).at[0, 1, 2].set(0.7)
    both, _ = loss_of(config, params, batch)
    assert float(both) < float(within) < float(nothing)


def test_the_start_is_the_empty_graph():
    start = first_weights(4, 2)
    assert start["lagged"].shape == (2, 4, 4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(start))


def test_a_cyclic_result_is_cut_until_it_is_acyclic():
    _, data = sample(5, nodes=3)
    cyclic = np.array([[0.0, 0.9, 0.0], [0.5, 0.0, 0.8], [0.0, 0.0, 0.0]])
    graph = learned_graph(cyclic, data, Structural(threshold=0.3, refine="none"))
    assert not graph.fixed_is_acyclic
    assert graph.acyclic_threshold == graph.threshold == 0.5
    assert np.argwhere(graph.weights).tolist() == [[0, 1], [1, 2]]
    low = learned_graph(0.1 * cyclic, data, Structural(threshold=0.3, refine="none"))
    assert low.fixed_is_acyclic
    assert (low.acyclic_threshold, low.threshold) == (0.05, 0.3)


def test_many_fits_in_one_program_learn_the_graphs():
    truths, data = zip(*(sample(seed, nodes=8) for seed in range(3)), strict=True)
    reports = []
    config = Structural(score="evlog", stage_steps=100)
    fits = fit_many(
        np.stack(data),
        config,
        sparsities=(0.01, 0.3),
        starts=2,
        progress=lambda *report: reports.append(report),
    )
    assert reports == [(100, 400), (200, 400), (300, 400), (400, 400)]
    assert fits.weights.shape == (3, 2, 2, 8, 8)
    assert np.isfinite(fits.losses).all()
    sizes = np.abs(fits.weights).sum(axis=(-1, -2))
    assert (sizes[:, 1] < sizes[:, 0]).all()  # the grid reaches the loss
    assert np.any(fits.weights[:, :, 0] != fits.weights[:, :, 1])
    for truth, rows, weights in zip(truths, data, fits.weights, strict=True):
        graph = learned_graph(weights[0, 0], rows, config)
        assert is_acyclic(graph.weights)
        assert is_acyclic(graph.thresholded)
        assert edge_scores(graph.weights, truth).shd <= 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mu": (1.0, 0.1)}, "mu and bounds must have one entry per stage"),
        ({"bounds": (1.0, 0.9, 0.8, -1.0)}, "bounds must be in"),
        ({"score": "lasso"}, "score"),
        ({"tresh": 0.1}, "tresh"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(settings, words):
    with pytest.raises(pydantic.ValidationError, match=words):
        Structural(**settings)


def test_what_cannot_be_fitted_is_refused():
    good = np.random.default_rng(0).normal(size=(1, 9, 3))
    with pytest.raises(ValueError, match="fit_many: data must be finite"):
        fit_many(good[0], Structural())
    with pytest.raises(ValueError, match=r"fit_many: config.lags must be 0, got 1"):
        fit_many(good, Structural(lags=1))
    with pytest.raises(ValueError, match="starts must be a whole number >= 1"):
        fit_many(good, Structural(), starts=0)
    with pytest.raises(ValueError, match="sparsities must be numbers >= 0"):
        fit_many(good, Structural(), sparsities=(-1.0,))
    with pytest.raises(ValueError, match="learned_graph: past must be given"):
        learned_graph(
            np.zeros((3, 3)), good[0], Structural(lags=1), lagged=np.zeros((1, 3, 3))
        )
