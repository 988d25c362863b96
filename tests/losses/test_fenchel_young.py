"""The surrogate is bounded below exactly when the target lies in the hull."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax import losses
from stabjax.losses import (
    fenchel_young_bound,
    fenchel_young_bound_any_potential,
    hull_violation,
)

fenchel_young = jax.jit(losses.fenchel_young, static_argnames="reduction")
LEARN = jax.jit(jax.value_and_grad(losses.fenchel_young), static_argnames="reduction")
CELLS, CLASSES = 3, 10
SCORES = hnp.arrays(
    np.float32, (CELLS, CLASSES), elements=st.floats(-1e4, 1e4, width=32)
)
LABELS = hnp.arrays(np.int32, CELLS, elements=st.integers(0, CLASSES - 1))
BOUND = fenchel_young_bound(CLASSES)


@jax.jit
def exact_loss(theta, target, temperature=1.0):
    mu = jax.nn.softmax(theta / temperature, axis=-1)
    return fenchel_young(theta, mu, target)


@given(SCORES, LABELS, st.sampled_from([0.25, 1.0, 4.0]), st.floats(0.0, 1.0))
def test_a_target_in_the_hull_keeps_the_loss_above_its_bound(theta, labels, t, blur):
    target = (1 - blur) * np.eye(CLASSES)[labels] + blur / CLASSES
    loss = float(exact_loss(theta, np.float32(target), t))
    # Rounding of mu times theta, and of the rows of the target, is no violation.
    assert loss >= t * BOUND - 4e-7 * CLASSES * np.abs(theta).max() - 1e-5


def test_the_bound_is_attained_where_its_derivation_says():
    for classes in (2, 3, 10, 100):
        bound = fenchel_young_bound(classes, temperature=2.0)
        target = np.eye(classes, dtype=np.float32)[:1]
        loss = exact_loss((2.0 - bound) * target, target, temperature=2.0)
        np.testing.assert_allclose(loss, bound, rtol=1e-5)


def test_a_fine_search_along_one_score_finds_nothing_below_the_bound():
    scores = np.linspace(-5.0, 15.0, 2001)
    p = np.exp(scores) / (np.exp(scores) + CLASSES - 1)
    np.testing.assert_allclose(np.min((p - 1) * scores), BOUND, atol=1e-5)


def test_the_bounds_are_the_published_numbers():
    assert fenchel_young_bound(10) == pytest.approx(-1.101, abs=1e-3)
    assert fenchel_young_bound(2) == pytest.approx(-0.278, abs=1e-3)
    assert fenchel_young_bound(1) == 0.0
    assert fenchel_young_bound_any_potential(10) == pytest.approx(-2.303, abs=1e-3)
    assert fenchel_young_bound_any_potential(10) < BOUND


def test_no_potential_between_two_cells_breaks_the_wider_bound():
    # Two cells of three classes with a random potential, summed over all 9 states.
    rng = np.random.default_rng(0)
    states = np.stack(np.meshgrid(*[np.arange(3)] * 2, indexing="ij"), -1).reshape(9, 2)
    hot = np.eye(3)[states]
    for _ in range(300):
        size = 10 ** rng.uniform(-1, 1.5)
        theta, phi = size * rng.normal(size=(2, 3)), size * rng.normal(size=9)
        energy = np.sum(hot * theta, (1, 2)) + phi
        p = np.exp(energy - energy.max())
        p /= p.sum()
        mu, state = np.einsum("s,sik->ik", p, hot), rng.integers(9)
        arrays = (np.float32(a) for a in (theta, mu, hot[state]))
        potential = (p @ phi - phi[state]) / 2
        total = float(fenchel_young(*arrays)) + potential
        assert total >= fenchel_young_bound_any_potential(3) - 1e-4


VIOLATION = jax.jit(hull_violation)


@given(LABELS, st.floats(0.125, 30.0))
def test_a_target_outside_the_hull_opens_a_direction_without_end(labels, excess):
    # More than 1 on a class: against that class the sampler can never win.
    target = np.float32((1 + excess) * np.eye(CLASSES)[labels])
    assert float(VIOLATION(target)) > 0
    direction = np.sign(target)
    losses = [float(exact_loss(size * direction, target)) for size in (1e2, 1e3, 1e4)]
    np.testing.assert_allclose(
        losses, [-excess * s for s in (1e2, 1e3, 1e4)], rtol=1e-3
    )


STEP = jax.jit(lambda theta, target: theta - jax.grad(exact_loss)(theta, target))


def test_descent_runs_away_outside_the_hull_and_settles_inside():
    def descend(target):
        theta = np.zeros((1, CLASSES), np.float32)
        for _ in range(300):
            theta = STEP(theta, target)
        return float(exact_loss(theta, target))

    inside = np.eye(CLASSES, dtype=np.float32)[:1]
    z_scored = (inside - 0.1) / 0.3
    assert descend(inside) >= BOUND
    assert descend(z_scored) < -1000.0


SOFTMAX = jax.jit(jax.nn.softmax)


@pytest.mark.parametrize(("reduction", "cells"), [("mean", CELLS), ("sum", 1)])
@given(theta=SCORES, labels=LABELS)
def test_the_gradient_is_mu_minus_target_over_the_cells(
    reduction, cells, theta, labels
):
    target = np.eye(CLASSES, dtype=np.float32)[labels]
    mu = np.asarray(SOFTMAX(theta))
    gradient = LEARN(theta, mu, target, reduction=reduction)[1]
    np.testing.assert_allclose(gradient, (mu - target) / cells, rtol=1e-6, atol=1e-38)


def test_mu_and_target_carry_no_gradient():
    theta, mu = np.ones((2, 3), np.float32), np.full((2, 3), 1 / 3, np.float32)
    by_others = jax.jit(jax.grad(fenchel_young, argnums=(1, 2)))
    for gradient in by_others(theta, mu, np.eye(3, dtype=np.float32)[:2]):
        np.testing.assert_array_equal(gradient, np.zeros((2, 3)))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_masked_cells_are_inert_in_all_three_arrays(reduction):
    clean = np.float32([[[1.0, 1.0]], [[0.5, 0.5]], [[0.0, 1.0]]])
    dirty = np.concatenate([clean, np.full_like(clean, np.nan)], axis=1)
    kept = LEARN(*clean, reduction=reduction)
    both = LEARN(*dirty, mask=jnp.array([True, False]), reduction=reduction)
    np.testing.assert_array_equal(both[0], kept[0])
    np.testing.assert_array_equal(both[1], np.concatenate([kept[1], [[0.0, 0.0]]]))


def test_half_precision_is_summed_in_float32(assert_ulps):
    rng = np.random.default_rng(0)
    theta, mu = (np.asarray(rng.random((500, 10)), jnp.bfloat16) for _ in range(2))
    target = np.asarray(np.eye(10)[rng.integers(0, 10, 500)], jnp.bfloat16)
    wide = [np.asarray(x, np.float64) for x in (theta, mu, target)]
    cells = np.sum(wide[0] * (wide[1] - wide[2]), -1)
    loss = fenchel_young(theta, mu, target)
    assert_ulps(loss, cells.mean(), 32, scale=np.abs(cells).mean())
    assert_ulps(fenchel_young(theta, mu, target, reduction="sum"), cells.sum(), 64)


def test_an_unknown_reduction_is_refused():
    x = jnp.ones((1, 2))
    with pytest.raises(Exception, match="reduction"):
        fenchel_young(x, x, x, reduction="average")


def test_one_row_for_all_cells_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    rows = jnp.ones((4, 3))
    with pytest.raises(AssertionError, match="shape"):
        fenchel_young(rows, rows, rows[:1])
