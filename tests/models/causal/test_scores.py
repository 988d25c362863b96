"""Likelihoods of a structural model against densities written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from stabjax.models.causal.order_search import order_cost
from stabjax.models.causal.scores import (
    NEEDS_RESIDUALS,
    equal_variance,
    log_abs_det,
    residual_score,
)

ROWS = jnp.asarray(np.random.default_rng(0).laplace(size=(400, 3)), jnp.float32)
ALL = jnp.ones_like(ROWS)


@pytest.mark.parametrize(
    ("score", "density"),
    [
        ("logcosh", lambda u: stats.logistic(scale=np.sqrt(3) / np.pi).logpdf(u)),
        ("student_t", lambda u: stats.t(4, scale=np.sqrt(0.5)).logpdf(u)),
    ],
)
def test_a_score_is_minus_the_log_density_of_standardized_residuals(score, density):
    spread = ROWS.std(0)
    u = (ROWS - ROWS.mean(0)[None, :]) / spread[None, :]
    expected = np.sum(np.log(spread) - density(np.asarray(u)).mean(0))
    assert float(residual_score(ROWS, ALL, score)) == pytest.approx(expected, rel=1e-5)


def test_the_laplace_score_takes_the_scale_that_fits_best():
    centered = np.asarray(ROWS - ROWS.mean(0)[None, :])
    best = np.abs(centered).mean(0)
    expected = -sum(
        stats.laplace(scale=b).logpdf(x).mean()
        for b, x in zip(best, centered.T, strict=True)
    )
    assert float(residual_score(ROWS, ALL, "laplace")) == pytest.approx(
        expected, rel=1e-4
    )


def test_the_entropy_score_is_the_cost_of_the_order_search():
    order = np.arange(3)
    independent = jnp.linalg.qr(ROWS - ROWS.mean(0)[None, :])[0]
    cost = order_cost(np.asarray(independent), order, cost="entropy")
    found = float(residual_score(independent, ALL, "entropy"))
    assert found == pytest.approx(cost, rel=1e-4)


@pytest.mark.parametrize("score", NEEDS_RESIDUALS)
def test_the_unit_of_a_column_shifts_the_score_by_its_logarithm_alone(score):
    factors = jnp.array([0.01, 1.0, 50.0])[None, :]
    moved = residual_score(ROWS * factors + 3.0, ALL, score)
    expected = residual_score(ROWS, ALL, score) + jnp.sum(jnp.log(factors))
    assert float(moved) == pytest.approx(float(expected), rel=1e-3)


@pytest.mark.parametrize("score", NEEDS_RESIDUALS)
def test_what_was_not_observed_has_no_say(score):
    observed = ALL.at[100:].set(0.0)
    spoiled = ROWS.at[100:].set(jnp.inf)
    expected = residual_score(ROWS[:100], ALL[:100], score)
    assert float(residual_score(spoiled, observed, score)) == pytest.approx(
        float(expected), rel=1e-5
    )
    slope = jax.grad(lambda x: residual_score(x, observed, score))(spoiled)
    assert float(jnp.abs(slope[100:]).max()) == 0.0
    assert bool(jnp.all(jnp.isfinite(slope)))


@pytest.mark.parametrize("score", NEEDS_RESIDUALS)
def test_residuals_without_variance_have_a_finite_score_and_gradient(score):
    value, slope = jax.value_and_grad(lambda x: residual_score(x, ALL, score))(0 * ROWS)
    assert bool(jnp.isfinite(value))
    assert bool(jnp.all(jnp.isfinite(slope)))


def test_only_the_entropy_score_tells_one_sided_noise_from_two_sided():
    rng = np.random.default_rng(1)
    skewed = jnp.asarray(rng.gamma(4.0, size=(20_000, 1)), jnp.float32)
    ones = jnp.ones_like(skewed)
    normal = jnp.asarray(rng.normal(size=(20_000, 1)), jnp.float32) * skewed.std()
    gains = {
        score: float(
            residual_score(normal, ones, score) - residual_score(skewed, ones, score)
        )
        for score in ("logcosh", "entropy")
    }
    assert gains["entropy"] > 3 * abs(gains["logcosh"])


def test_equal_variances_are_those_of_golem():
    variances = jnp.array([1.0, 4.0, 1.0])
    assert float(equal_variance(variances, logarithm=False)) == 3.0
    assert float(equal_variance(variances, logarithm=True)) == pytest.approx(
        1.5 * np.log(2.0)
    )
    two = jnp.array([[0.0, 0.5], [0.5, 0.0]])
    assert float(log_abs_det(two)) == pytest.approx(np.log(0.75))
    assert float(log_abs_det(jnp.triu(two))) == 0.0
