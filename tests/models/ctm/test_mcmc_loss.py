"""Why the original loss fell for ever, what its clamp did, and what bounds it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.models.ctm.fenchel_young import (
    CLAMP,
    LOWER_BOUND,
    LOWER_BOUND_FREE,
    clamp_like_seed,
    one_hot_loss,
    ordinal_loss,
)
from stabjax.models.ctm.metropolis import FrozenEnergy

TARGET = jnp.array([[0, 0, 3, 0, 5, 0, 0, 0, 1], [0, 2, 0, 0, 0, 0, 4, 0, 10]])
VALID = TARGET < 10
SILENT = FrozenEnergy(jnp.zeros((9, 128)), jnp.zeros((128,)), jnp.zeros((128,)))


@jax.jit
def ordinal(theta):
    chains = jnp.zeros((2, 3, 9), jnp.int32)
    return ordinal_loss(theta, TARGET, VALID, chains, SILENT, jax.random.key(0))


@jax.jit
def one_hot(theta, coupling):
    return one_hot_loss(
        theta, coupling, TARGET, VALID, jax.random.key(0), sweeps=5, burn_in=1
    )


def away_from_black(size):
    """Push black cells where no color lies: their target is below 0."""
    return jnp.where(TARGET == 0, -size, 0.0)[:, :, None]


def test_outside_the_hull_the_loss_falls_without_end():
    losses = [float(ordinal(away_from_black(x)).loss) for x in (1e1, 1e3, 1e5)]
    assert losses[2] < 50 * losses[1] < 0
    assert losses[1] < 50 * losses[0] < 0
    assert losses[2] < -1e5


def test_the_z_scored_target_lies_outside_the_hull():
    assert float(ordinal(jnp.zeros((2, 9, 1))).outside_hull) > 0.3


def test_one_hot_targets_lie_in_the_hull():
    outcome = one_hot(jnp.zeros((2, 9, 10)), jnp.zeros((10, 10)))
    assert float(outcome.outside_hull) == 0.0


@given(st.integers(0, 10**6), st.floats(0.01, 1e4))
def test_in_the_hull_the_exact_loss_never_falls_below_its_bound(seed, scale):
    theta = scale * np.random.default_rng(seed).normal(size=(2, 9, 10))
    # Without coupling the sampler's conditionals are exact.
    loss = one_hot(jnp.asarray(theta, jnp.float32), jnp.zeros((10, 10))).loss
    assert float(loss) >= LOWER_BOUND_FREE * (1 + 1e-5)


def test_the_bounds_are_those_of_ten_colors():
    assert pytest.approx(-np.log(10)) == LOWER_BOUND
    assert pytest.approx(-1.1011, abs=1e-4) == LOWER_BOUND_FREE


def test_the_gradient_of_the_sound_loss_is_the_gap_of_means():
    theta = jax.random.normal(jax.random.key(3), (2, 9, 10))
    grad = jax.grad(lambda t: one_hot(t, jnp.zeros((10, 10))).loss)(theta)
    y = jax.nn.one_hot(TARGET, 10)
    gap = jnp.where(VALID[:, :, None], jax.nn.softmax(theta) - y, 0.0) / VALID.sum()
    np.testing.assert_allclose(grad, gap, atol=1e-6)
    outcome = one_hot(theta, jnp.zeros((10, 10)))
    np.testing.assert_allclose(outcome.slope, jnp.linalg.norm(gap), rtol=1e-4)


def test_the_gradient_of_the_original_loss_has_the_reported_norm():
    theta = jax.random.normal(jax.random.key(3), (2, 9, 1))
    grad = jax.grad(lambda t: ordinal(t).loss)(theta)
    np.testing.assert_allclose(
        jnp.sqrt(jnp.sum(grad**2)), ordinal(theta).slope, rtol=1e-4
    )
    assert float(jnp.abs(grad[1, 8, 0])) == 0.0  # padding


@pytest.mark.parametrize(("loss", "live"), [(-11.0, 0.0), (9.0, 1.0), (250.0, 0.0)])
def test_the_seeds_clamp_lets_no_gradient_through_beyond_ten(loss, live):
    value, slope = jax.value_and_grad(lambda x: clamp_like_seed(x)[0])(
        jnp.float32(loss)
    )
    assert float(slope) == live
    assert abs(float(value)) <= CLAMP


def test_the_bound_of_the_clamp_is_an_option():
    assert float(clamp_like_seed(jnp.float32(-11.0), 12.0)[0]) == -11.0
    assert float(clamp_like_seed(jnp.float32(-11.0), 5.0)[0]) == -5.0


def test_the_seeds_clamp_freezes_the_head_of_an_ordinary_grid():
    """The loss is a sum: theta of size 5 is enough."""
    theta = away_from_black(5.0)
    assert float(jnp.abs(ordinal(theta).loss)) > CLAMP
    grad = jax.grad(lambda t: clamp_like_seed(ordinal(t).loss)[0])(theta)
    assert float(jnp.abs(grad).max()) == 0.0


def test_the_coupling_is_trained_by_the_potts_terms():
    def loss(coupling):
        return one_hot(jnp.zeros((2, 9, 10)), coupling).loss

    grad = jax.grad(loss)(jnp.zeros((10, 10)))
    assert float(jnp.abs(grad).max()) > 1e-3
    # Equal neighbors (black beside black) are commoner in the data than in noise.
    assert float(grad[0, 0]) < 0.0


def test_padding_does_not_enter_the_sound_loss():
    theta = jax.random.normal(jax.random.key(0), (2, 9, 10))
    wild = theta.at[1, 8].set(1e6)
    zero = jnp.zeros((10, 10))
    np.testing.assert_allclose(one_hot(theta, zero).loss, one_hot(wild, zero).loss)
