"""Clue attention, and what keeps the number of clues from collapsing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rlan_tiny import hasty, parameters, solver, tiny

from stabjax.models.rlan.clue_losses import (
    clue_std,
    clue_use,
    saturation_loss,
    variance_loss,
)
from stabjax.models.rlan.clues import STOP_BOUND


@pytest.fixture(scope="module")
def clues():
    config, rng = tiny(), np.random.default_rng(1)
    real = np.ones((4, 9), bool)
    real[1, 4:] = False
    features = rng.normal(size=(4, 9, config.width)).astype(np.float32)
    context = rng.normal(size=(4, config.width)).astype(np.float32)
    attend = hasty(lambda params, *inputs: solver(config, params).clues(*inputs))
    inputs = (features, real, real, context, np.ones((4, 3), np.float32))
    found = attend(parameters(), *inputs, np.float32(1.0))
    stop = hasty(lambda found: found.stop)(found)
    return jax.device_get(found), np.asarray(stop)


def test_every_clue_attends_to_the_cells_of_the_grid_alone(clues):
    found, _ = clues
    assert found.attention.shape == (4, 2, 9)
    np.testing.assert_allclose(found.attention.sum(axis=-1), 1.0, rtol=1e-5)
    assert float(found.attention[1, :, 4:].max()) == 0.0


def test_a_place_that_was_taken_is_taken_less_again(clues):
    found, _ = clues
    first = np.argmax(found.attention[:, 0], axis=-1)
    again = np.take_along_axis(found.attention[:, 1], first[:, None], axis=1)[:, 0]
    assert np.all(again < found.attention[:, 0].max(axis=-1))


def test_entropy_is_that_of_the_attention_over_the_largest(clues):
    found, _ = clues
    attention = np.asarray(found.attention[1, 0, :4], np.float64)
    expected = -np.sum(attention * np.log(attention)) / np.log(4)
    assert float(found.entropy[1, 0]) == pytest.approx(expected, rel=1e-4)


def test_centroids_are_mean_places(clues):
    found, _ = clues
    attention = np.asarray(found.attention[0, 1]).reshape(3, 3)
    expected = [attention.sum(1) @ np.arange(3), attention.sum(0) @ np.arange(3)]
    np.testing.assert_allclose(found.centroid[0, 1], expected, rtol=1e-5)


def test_the_bounded_stop_logit_can_never_be_ninety(clues):
    _, stop = clues
    assert np.max(np.abs(stop)) < STOP_BOUND


_use = hasty(clue_use, static_argnames="setting")


def test_the_expected_number_of_clues_is_that_of_a_sequence_that_stops():
    stop = jnp.array([[0.0, 1.0, -2.0]])
    going = 1 / (1 + np.exp([0.0, 1.0, -2.0]))
    use = _use(stop, "sound")
    np.testing.assert_allclose(use[0], [1, going[0], going[0] * going[1]], rtol=1e-6)
    np.testing.assert_allclose(_use(stop, "seed")[0], going, rtol=1e-6)


def test_monte_carlo_of_the_sequence_gives_the_sound_number():
    rng = np.random.default_rng(0)
    stops = rng.random((200_000, 3)) < 1 / (1 + np.exp([1.0, 0.0, 2.0]))
    first = np.where(stops.any(axis=1), stops.argmax(axis=1), 2)
    used = _use(jnp.array([[-1.0, 0.0, -2.0]]), "sound")
    assert float(used.sum()) == pytest.approx(np.mean(first + 1), abs=0.01)


_variance = hasty(
    jax.value_and_grad(variance_loss), static_argnames=("setting", "target")
)


@pytest.mark.parametrize(("setting", "finite"), [("seed", False), ("sound", True)])
def test_at_collapse_the_seeds_regularizer_is_nan_and_the_sound_one_pushes(
    setting, finite
):
    clues = jnp.full((4,), 1.15)
    loss, slope = _variance(clues, setting, target=0.5)
    assert float(loss) == pytest.approx(0.5)
    assert bool(jnp.all(jnp.isfinite(slope))) is finite
    if finite:
        assert float(jnp.linalg.norm(slope)) > 0.1


def test_one_row_has_no_deviation_and_no_nan():
    assert float(hasty(clue_std)(jnp.array([2.0]))) == 0.0
    one = jnp.array([2.0])
    assert bool(jnp.isnan(_variance(one, "seed", target=0.5)[0]))
    _, slope = _variance(one, "sound", target=0.5)
    assert float(slope[0]) == 0.0


@pytest.mark.parametrize(
    ("setting", "loss", "slope"), [("seed", 1.0, 0.0), ("sound", 95.0, 1.0)]
)
def test_of_a_saturated_logit_the_seed_sees_the_bounded_one(setting, loss, slope):
    def total(raw):
        stop = STOP_BOUND * jnp.tanh(raw / STOP_BOUND)
        return saturation_loss(raw, stop, setting, limit=5.0)

    value, grad = hasty(jax.value_and_grad(total))(jnp.array([[100.0]]))
    assert float(value) == pytest.approx(loss)
    assert float(grad[0, 0]) == pytest.approx(slope, abs=1e-6)
