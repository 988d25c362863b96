"""The law of the count, against scipy's, and what the seed's head gets wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stabjax.models.gan.counts import (
    count_log_probability,
    draw_count,
    log_mse,
    negative_log_likelihood,
    rounded_count,
)


def outputs(mean, dispersion):
    """Return head outputs that the smooth bound turns into these logs."""
    logs = np.log([[mean, dispersion]])
    return jnp.asarray(12.0 * np.arctanh(logs / 12.0), jnp.float32)


@pytest.mark.parametrize("minimum", [0, 1])
@pytest.mark.parametrize(("mean", "r"), [(0.3, 2.0), (4.4, 1.5), (8.0, 50.0)])
def test_it_is_scipys_negative_binomial_between_the_limits(mean, r, minimum):
    count = np.arange(25)
    law = stats.nbinom.logpmf(count, r, r / (r + mean))
    law[:minimum] = -np.inf
    law -= np.logaddexp.reduce(law)
    found = count_log_probability(outputs(mean, r), minimum=minimum, capacity=24)
    np.testing.assert_allclose(found[0], law, rtol=2e-4, atol=2e-4)


def test_it_becomes_a_poisson_law_where_log_gammas_would_cancel():
    count = np.arange(1, 25)
    law = stats.poisson.logpmf(count, 4.4)
    law -= np.logaddexp.reduce(law)
    found = count_log_probability(outputs(4.4, 1.5e5), minimum=1, capacity=24)
    np.testing.assert_allclose(found[0, 1:], law, rtol=1e-3, atol=1e-3)


def test_gradients_are_finite_at_any_output_of_the_head():
    for extreme in (-1e30, -50.0, 50.0, 1e30):
        x = jnp.full((3, 2), extreme)
        loss = lambda x: negative_log_likelihood(
            x, jnp.array([1, 5, 24]), minimum=1, capacity=24
        )
        value, gradient = jax.value_and_grad(loss)(x)
        assert np.isfinite(value)
        assert np.all(np.isfinite(gradient))


def test_draws_have_the_mean_and_the_limits_of_the_law():
    head = jnp.broadcast_to(outputs(4.4, 3.0), (20_000, 2))
    drawn = np.asarray(draw_count(head, jax.random.key(0), minimum=1, capacity=10))
    table = count_log_probability(head[:1], minimum=1, capacity=10)[0]
    mean = float(jnp.sum(jnp.exp(table) * jnp.arange(11)))
    assert drawn.min() == 1
    assert drawn.max() == 10
    spread = drawn.std() / np.sqrt(len(drawn))
    assert abs(drawn.mean() - mean) < 4 * spread


def test_the_likelihood_is_smallest_at_the_true_mean():
    count = jnp.asarray(np.random.default_rng(0).poisson(6.0, 4000), jnp.int32)
    score = lambda mean: float(
        negative_log_likelihood(
            jnp.broadcast_to(outputs(mean, 1e4), (4000, 2)), count,
            minimum=0, capacity=40,
        )
    )  # fmt: skip
    assert score(6.0) < min(score(5.5), score(6.5))


@pytest.mark.parametrize(
    ("log_count", "expected"),
    [(0.0, 0), (0.17, 0), (0.18, 1), (1.0, 9), (-3.0, 0), (5.0, 24), (40.0, 24)],
)
def test_the_seeds_head_rounds_ten_to_the_output_less_one(log_count, expected):
    said = rounded_count(jnp.array([[log_count]]), capacity=24, repair=False)
    assert said.count[0] == expected
    assert said.overfull == (10.0**log_count - 1 > 24.5)


def test_what_the_seed_repairs_is_counted():
    broken = jnp.array([[jnp.nan], [jnp.inf], [0.3]])
    said = rounded_count(broken, capacity=24, repair=True)
    assert said.repaired == 2.0
    assert said.count.tolist() == [0, 0, 1]


def test_the_log_mse_prefers_the_geometric_mean_which_is_too_small():
    count = jnp.asarray(np.random.default_rng(0).poisson(3.0, 10_000), jnp.int32)
    best = jnp.mean(jnp.log10(count + 1.0))
    at = lambda m: float(log_mse(jnp.full((10_000, 1), m), count))
    assert at(best) < min(at(best - 0.05), at(best + 0.05))
    assert 10.0 ** float(best) - 1.0 < 0.9 * float(count.mean())
