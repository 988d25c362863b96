"""Moments begin anew: when, how often, and how softly afterwards."""

import functools
import inspect

import jax
import numpy as np
import optax
import pytest
from helpers import (
    adamw,
    batch_of,
    bits,
    gradient_with,
    judge_series,
    optax_face,
    params_of,
    rows_of,
    run,
    train_face,
)

from stabjax.guards import escalate, reset_moments
from stabjax.types import Alert

RESET, ROLLBACK = int(Alert.MOMENTS_RESET), int(Alert.ROLLBACK)
NAN = batch_of(9, gradient=gradient_with(np.nan))
GOOD = [batch_of(step) for step in range(12)]


def resets(trace):
    return ((trace.alerts & RESET) != 0).nonzero()[0].tolist()


def test_it_resets_every_so_many_applied_steps():
    trace = judge_series(reset_moments(every=4), grad_norm=np.ones(17))
    assert resets(trace) == [3, 7, 11, 15]
    assert trace.state.resets[-1] == 4
    assert (trace.update_scale == 1.0).all()
    assert trace.accepted.all()


def test_refused_steps_are_not_counted_and_no_reset_is_repeated():
    norm = np.ones(20)
    norm[[1, 2, 6, 7, 8]] = np.nan
    trace = judge_series(reset_moments(every=4), grad_norm=norm)
    # Steps 0, 3, 4, 5 are the first four applied, 9 to 12 the next.
    assert resets(trace) == [5, 12, 16]


def test_a_streak_of_refusals_sets_off_one_reset():
    norm = np.ones(30)
    norm[5:15], norm[20:23] = np.nan, np.nan
    trace = judge_series(reset_moments(after_refusals=3), grad_norm=norm)
    assert resets(trace) == [8, 23]


def test_both_triggers_together():
    norm = np.ones(12)
    norm[1:4] = np.nan
    trace = judge_series(reset_moments(every=5, after_refusals=3), grad_norm=norm)
    # The reset after the streak begins a new period.
    assert resets(trace) == [4, 9]


def test_one_of_the_triggers_must_be_given():
    with pytest.raises(ValueError, match="every or after_refusals must be a whole"):
        inspect.unwrap(reset_moments)()


def test_the_warm_up_is_a_cosine_from_a_hundredth_to_one():
    trace = judge_series(reset_moments(every=10, warmup=4), grad_norm=np.ones(20))
    exact = [1 - 0.99 * (1 + np.cos(np.pi * t / 5)) / 2 for t in range(4)]
    np.testing.assert_allclose(trace.update_scale[:10], 1.0)
    np.testing.assert_allclose(trace.update_scale[10:14], exact, rtol=1e-4)
    np.testing.assert_allclose(trace.update_scale[14:], 1.0)


def test_the_warm_up_waits_for_steps_that_are_applied():
    norm = np.ones(20)
    norm[10:13] = np.nan
    trace = judge_series(reset_moments(every=9, warmup=4), grad_norm=norm)
    assert trace.update_scale[9] < 0.02
    np.testing.assert_array_equal(trace.update_scale[10:14], trace.update_scale[10])


@functools.cache
def faces():
    guards = [reset_moments(every=3)]
    return {
        "branch": train_face(guards, "branch"),
        "select": train_face(guards, "select"),
        "optax": optax_face(guards),
    }


@pytest.mark.parametrize("form", ["branch", "select", "optax"])
def test_after_a_reset_the_moments_are_as_at_their_start_and_the_schedule_goes_on(form):
    face = faces()[form]
    state = run(face, GOOD[:3])
    assert bits(face.held(state).inner[0]) == bits(adamw().init(params_of())[0])
    assert face.core(state).applied == 3
    moved = face.held(face.step(state, GOOD[3])).inner
    counts = [int(c) for _, c in optax.tree.get_all_with_path(moved, "count")]
    assert counts == [1, 4]


@pytest.mark.parametrize("form", ["branch", "select", "optax"])
def test_injected_hyperparameters_go_on(form):
    def inner(learning_rate):
        rate = optax.scale_by_learning_rate(learning_rate)
        return optax.chain(optax.scale_by_adam(), rate, optax.scale_by_schedule(abs))

    optimizer = optax.inject_hyperparams(inner)(
        learning_rate=lambda step: 0.1 / (step + 1)
    )
    guards = [reset_moments(every=3)]
    if form == "optax":
        face = optax_face(guards, optimizer)
    else:
        face = train_face(guards, form, optimizer)
    state = face.held(run(face, GOOD[:3])).inner
    assert state.count == 3
    adam, _, schedule = state.inner_state
    assert (adam.count, schedule.count) == (0, 3)
    assert not any(np.any(x) for x in jax.tree.leaves((adam.mu, adam.nu)))


@pytest.mark.parametrize("form", ["branch", "select"])
def test_the_step_that_sets_off_the_reset_is_applied_with_the_old_moments(form):
    ours = faces()[form].held(run(faces()[form], GOOD[:3])).params
    plain = train_face([], form)
    theirs = plain.held(run(plain, GOOD[:3])).params
    for mine, its in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, its, rtol=1e-6)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_rollback_can_reset_the_moments_as_well(form):
    ladder = escalate(roll_back_after=2, max_rollbacks=2, reset_moments=True)
    face = train_face([ladder], form, snapshot_every=2)
    expected = bits(face.held(run(face, GOOD[:2])).params)
    state = run(face, [*GOOD[:3], NAN, NAN, GOOD[4]])
    assert rows_of(state)[-1]["alerts"] == RESET | ROLLBACK
    assert bits(face.held(state).params) == expected
    assert bits(face.held(state).inner[0]) == bits(adamw().init(params_of())[0])


def test_without_being_asked_a_rollback_keeps_the_moments():
    assert not escalate().resets_moments
    trace = judge_series(escalate(roll_back_after=2), grad_norm=np.full(6, np.nan))
    assert trace.roll_back.any()
    assert not (trace.alerts & RESET).any()


def test_an_outlier_in_the_second_moment_is_forgotten():
    def distance(guards):
        face = optax_face(guards, optax.adam(1e-2))
        batches = [batch_of(0, gradient=gradient_with(1e6))] + [batch_of(0)] * 6
        state = run(face, batches)
        before = float(state[0]["core"]["kernel"][0, 0])
        state = run(face, [batch_of(0)] * 5, state)
        return abs(float(state[0]["core"]["kernel"][0, 0]) - before)

    # What is left of it in the second moment holds Adam up.
    assert abs(distance([reset_moments(every=7)]) - 5e-2) < 2e-2
    assert distance([]) < 1e-2
