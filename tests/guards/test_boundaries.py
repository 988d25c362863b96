"""Where a decision turns: constants, edges and conditions that a slip would move."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import judge_series, stats_of

from stabjax.core.judge import init_core, judge
from stabjax.guards import (
    clip_by_group_norm,
    dynamic_loss_scale,
    reset_moments,
    skip_nonfinite,
    skip_spikes,
)
from stabjax.health import Alert
from stabjax.train_step import make_train_step

NORM = skip_spikes(signals=["gradient_norm"])
TIGHT = skip_spikes(signals=["gradient_norm"], margin=1.0)


def refused(trace):
    return (~trace.accepted).nonzero()[0].tolist()


def test_a_normal_step_ends_the_streak_of_a_spike():
    series = np.ones(100)
    series[[50, 51, 60, 61, 70]] = 1e6
    trace = judge_series(NORM, grad_norm=series)
    assert refused(trace) == [50, 51, 60, 61, 70]
    assert trace.state.streak[[51, 52, 61, 62, 70]].ravel().tolist() == [2, 0, 2, 0, 1]


def test_an_update_that_was_judged_is_not_judged_again_after_the_refusal():
    update = np.full(100, 1e-3)
    update[60:62] = 1.0
    trace = judge_series(skip_spikes(signals=["update_norm"]), update_norm=update)
    assert refused(trace) == [60]


@pytest.mark.parametrize(("factor", "accepted"), [(1.25, True), (1.4, False)])
def test_the_floor_of_the_spread_is_a_twentieth(factor, accepted):
    series = np.ones(60)
    series[50] = factor  # six floors are a factor of exp(0.3) = 1.35
    assert judge_series(TIGHT, grad_norm=series).accepted[50] == accepted


@pytest.mark.parametrize(("factor", "accepted"), [(90.0, True), (300.0, False)])
def test_during_warm_up_the_limit_is_a_factor_of_a_hundred(factor, accepted):
    series = np.ones(20)
    series[10] = factor
    assert judge_series(NORM, grad_norm=series).accepted[10] == accepted


@pytest.mark.parametrize(("at", "accepted"), [(19, True), (20, False)])
def test_the_spread_is_trusted_from_the_twentieth_value_on(at, accepted):
    series = np.ones(30)
    series[at] = 50.0
    assert judge_series(NORM, grad_norm=series).accepted[at] == accepted


def test_the_first_value_has_no_deviation():
    trace = judge_series(skip_spikes(signals=["loss"]), loss=[7.0, 7.0])
    assert trace.state.spread.ravel().tolist() == [0.0, 0.0]
    assert trace.state.reach.ravel().tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("last", "accepted"), [(50.0, True), (500.0, False)])
def test_a_loss_around_zero_has_its_spread_for_a_level(last, accepted):
    loss = np.where(np.arange(15) % 2, 1.0, -1.0)
    loss[14] = last
    trace = judge_series(skip_spikes(signals=["loss"]), loss=loss)
    assert trace.accepted[14] == accepted


def test_what_has_halted_is_not_reset_any_more():
    guards = (reset_moments(every=1),)
    core = init_core(guards)
    going = judge(guards, core, stats_of(core), squarable=False).decision
    halted = core._replace(halted=jnp.ones((), jnp.bool_))
    stopped = judge(guards, halted, stats_of(halted), squarable=False).decision
    assert (bool(going.reset_moments), bool(stopped.reset_moments)) == (True, False)
    assert not stopped.alerts & int(Alert.MOMENTS_RESET)


def test_a_sound_step_is_never_told_to_have_been_waived():
    series = [1.0, np.nan, 1.0]
    trace = judge_series(skip_nonfinite(compat="optax"), grad_norm=series)
    told = (trace.alerts & int(Alert.ACCEPTED_NONFINITE)) != 0
    assert told.tolist() == [False, False, False]
    gives_in = skip_nonfinite(max_consecutive=1, on_exhausted="accept")
    trace = judge_series(gives_in, grad_norm=[1.0, np.nan, np.nan, 1.0])
    told = (trace.alerts & int(Alert.ACCEPTED_NONFINITE)) != 0
    assert told.tolist() == [False, False, True, False]


@pytest.mark.parametrize("form", ["branch", "select"])
def test_groups_are_clipped_in_true_units_under_a_scaled_loss(form):
    params = {"a": jnp.zeros(2), "b": jnp.zeros(3)}

    def loss(params, batch, key):
        del key
        return jnp.sum(params["a"]) * batch + jnp.sum(params["b"]) * 1e-3 * batch, {}

    def trained(guards):
        clip = clip_by_group_norm(max_norm=1.0, groups=["a"])
        train = make_train_step(loss, optax.sgd(1.0), guards=[clip, *guards], form=form)
        state = train.init(params, jnp.float32(4.0))
        state, _ = train.step(state, jnp.float32(4.0), jax.random.key(0))
        return state.params, train.guard_states(state).guards[0]

    plain, scaled = trained([]), trained([dynamic_loss_scale(initial=2.0**12)])
    np.testing.assert_allclose(scaled[0]["a"], plain[0]["a"], rtol=1e-6)
    np.testing.assert_allclose(scaled[0]["b"], plain[0]["b"], rtol=1e-6)
    np.testing.assert_allclose(scaled[1].typical_norm, plain[1].typical_norm, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(plain[0]["a"]), 1.0, rtol=1e-6)
