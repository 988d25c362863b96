"""The stablemax that gave NaN, the clamp that did not help, and rare colors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rlan_tiny import hasty, tiny

from stabjax.losses import log_stablemax
from stabjax.models.rlan.cell_loss import (
    CLAMP,
    Answers,
    color_weights,
    naive_log_stablemax,
    row_losses,
    squash_logits,
)


@functools.cache
def _program(config):
    """Return losses of rows, and the slope of the task loss, in one program."""

    def both(answers):
        def task(logits):
            rows = row_losses(config, answers._replace(logits=logits), answers)
            return jnp.sum(rows.task), rows

        slope, rows = jax.grad(task, has_aux=True)(answers.logits)
        return rows, slope

    return hasty(both)


def _losses(config, row, *, label=0, dtype=jnp.float32):
    """Return losses and slope of one cell with the given logits, beside padding."""
    logits = np.zeros((2, 4, 10), np.float32)
    logits[0, 0] = row
    valid = np.zeros((2, 4), bool)
    valid[0, 0] = True
    target = np.full((2, 4), label, np.int32)
    rows, slope = _program(config)(Answers(logits.astype(dtype), target, valid))
    return rows, np.asarray(slope, np.float32)[0, 0]


def _confidently_wrong():
    return np.where(np.arange(10) == 3, 80.0, -90.0)


_usual, _exact = hasty(naive_log_stablemax), hasty(log_stablemax)


@given(st.lists(st.floats(-90, 80, width=32), min_size=10, max_size=10))
def test_the_usual_stablemax_has_the_right_values(row):
    logits = np.array(row, np.float32)
    np.testing.assert_allclose(_usual(logits), _exact(logits), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(
    ("arm", "finite"), [("before", False), ("seed", False), ("sound", True)]
)
def test_the_usual_stablemax_has_a_nan_gradient_at_one_and_the_exact_one_does_not(
    arm, finite, dtype
):
    _, slope = _losses(tiny(arm), np.eye(10)[3], dtype=dtype)
    assert bool(np.all(np.isfinite(slope))) is finite


def test_near_one_the_usual_stablemax_is_finite():
    """So it is the point itself, not its neighborhood, and no size of the logits."""
    _, slope = _losses(tiny("before"), np.full(10, 1.0 + 1e-6))
    assert np.all(np.isfinite(slope))


def test_rounding_to_bfloat16_meets_one_often():
    logits = np.random.default_rng(0).normal(size=16 * 9 * 10).astype(np.float32)
    assert np.sum(logits == 1.0) == 0
    assert np.sum(logits.astype(jnp.bfloat16) == 1.0) >= 1


def test_the_clamp_takes_the_gradient_of_what_is_confidently_wrong():
    _, clamped = _losses(tiny("seed"), _confidently_wrong())
    np.testing.assert_array_equal(clamped, 0.0)
    # 1 / (1 + 80) of a softmax's slope: alive.
    _, slope = _losses(tiny(), _confidently_wrong())
    assert slope[3] > 5e-3


def test_clamped_logits_are_counted():
    row = np.full(10, CLAMP + 1.0)
    assert float(_losses(tiny("seed"), row)[0].clamped) == 10.0
    assert float(_losses(tiny(), row)[0].clamped) == 0.0


def test_the_bound_in_the_head_is_not_smooth():
    slopes = hasty(jax.grad(lambda x: jnp.sum(squash_logits(x))))(
        jnp.array([49.9, 50.1])
    )
    np.testing.assert_allclose(slopes, [1.0, 2.0], atol=1e-3)


def test_a_confident_error_costs_twenty_times_more_under_softmax():
    row = _confidently_wrong()
    rows, _ = _losses(tiny("seed"), row)
    assert float(rows.held_out[0]) == pytest.approx(170.0, abs=0.1)
    assert float(-_exact(row.astype(np.float32))[0]) == pytest.approx(8.9, abs=0.1)


def test_both_forms_of_the_task_loss_agree_on_the_seeds_weights():
    row = np.random.default_rng(1).normal(size=10)
    configs = [tiny("seed", logit_guard=x) for x in ("before", "seed", "sound")]
    losses = [_losses(config, row, label=2)[0].task for config in configs]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    np.testing.assert_allclose(losses[0], losses[2], rtol=1e-4)


_weights = hasty(color_weights, static_argnames=("setting", "cap"))
COLORED = np.array([[0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3]], np.int32)
EVERYWHERE = np.ones(COLORED.shape, bool)


def test_one_absent_color_takes_the_weight_from_all_others_in_the_seed():
    weights = _weights(COLORED, EVERYWHERE, "seed", cap=6.0)
    np.testing.assert_allclose(weights[:4], 1.0, atol=1e-4)
    assert float(weights[9]) == pytest.approx(6.0)


def test_the_rarest_color_that_is_there_weighs_the_cap():
    weights = _weights(COLORED, EVERYWHERE, "sound", cap=6.0)
    np.testing.assert_allclose(
        weights, [1, 1 + 5 / 6, 1 + 5 / 3, 6, 1, 1, 1, 1, 1, 1], rtol=1e-6
    )


def test_with_all_colors_there_both_weigh_the_rarest_alike():
    target = np.repeat(np.arange(10, dtype=np.int32), np.arange(1, 11))[None]
    for setting in ("seed", "sound"):
        weights = _weights(target, target >= 0, setting, cap=6.0)
        assert float(weights[1]) == pytest.approx(6.0)
        assert float(np.max(weights)) == pytest.approx(6.0)


def test_a_batch_of_black_grids_has_finite_weights():
    black = np.zeros((1, 14), np.int32)
    for setting in ("seed", "sound"):
        weights = _weights(black, black == 0, setting, cap=6.0)
        assert np.all(np.isfinite(weights))


def test_padding_is_no_color():
    target = np.where(np.arange(14) == 13, np.int32(10), COLORED)
    weights = _weights(target, target != 10, "sound", cap=6.0)
    assert float(weights[3]) == 1.0
    assert float(weights[2]) == pytest.approx(6.0)


def test_in_the_seed_a_small_grid_weighs_less():
    valid = np.ones((2, 4), bool)
    valid[1, 1:] = False
    answers = Answers(
        np.zeros((2, 4, 10), np.float32), np.zeros((2, 4), np.int32), valid
    )
    (seed, _), (sound, _) = (_program(tiny(arm))(answers) for arm in ("seed", "sound"))
    assert float(seed.task[1]) == pytest.approx(float(seed.task[0]) / 4)
    assert float(sound.task[1]) == pytest.approx(float(sound.task[0]))
