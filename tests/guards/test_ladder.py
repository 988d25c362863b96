"""What comes after a refusal: smaller steps, rollback, halt, or giving in."""

import functools

import jax
import numpy as np
import optax
import pytest
from helpers import (
    adamw,
    batch_of,
    bits,
    copied,
    gradient_with,
    judge_series,
    optax_face,
    params_of,
    rows_of,
    run,
    train_face,
)

from stabjax.guards import back_off, escalate, skip_nonfinite
from stabjax.train_step import TrainingHalted
from stabjax.types import Alert

NAN = batch_of(9, gradient=gradient_with(np.nan, leaf=1), component=np.nan)
GOOD = [batch_of(step) for step in range(12)]


@pytest.fixture(scope="module", params=["branch", "select"])
def form(request):
    return request.param


@functools.cache
def halting(form):
    return train_face([skip_nonfinite(max_consecutive=3)], form)


@functools.cache
def returning(form):
    guards = [escalate(roll_back_after=3, max_rollbacks=2, halt_after=50)]
    return train_face(guards, form, snapshot_every=2)


def test_it_halts_after_so_many_and_says_step_component_and_leaf(form):
    state = run(halting(form), [*GOOD[:2], NAN, GOOD[2], NAN, NAN, NAN, GOOD[3]])
    rows = rows_of(state)
    assert [row["halted"] for row in rows] == [0, 0, 0, 0, 0, 0, 1, 1]
    row, schema = rows[6], state.telemetry.schema
    names = schema.component(row), schema.leaf(row)
    error = TrainingHalted(row["step"], *names, row["alerts"])
    assert (error.step, error.component, error.leaf) == (6, "raw/extra", "core/kernel")
    assert Alert(error.alerts) & Alert.HALT
    assert "halted at step 6" in str(error)
    assert "component raw/extra, first bad leaf core/kernel" in str(error)


def test_what_is_halted_stays_halted_and_changes_no_bit(form):
    face = halting(form)
    state = run(face, [*GOOD[:2], NAN, NAN, NAN])
    before = bits(face.held(state))
    state = run(face, GOOD, state)
    assert bits(face.held(state)) == before
    assert face.core(state).halted


@pytest.mark.optimized
def test_a_rollback_returns_the_bits_of_the_last_snapshot(form):
    face = returning(form)
    at_four = run(face, GOOD[:4])
    expected = bits(face.held(at_four))
    state = run(face, [*GOOD[:5], NAN, NAN, NAN, GOOD[5]])
    assert bits(face.held(state)) == expected
    row = rows_of(state)[-1]
    assert (row["rollbacks"], row["accepted"], row["halted"]) == (1, 0, 0)
    assert row["alerts"] & int(Alert.ROLLBACK)
    again = run(face, GOOD[6:9], state)
    assert bits(face.held(again)) == bits(face.held(run(face, GOOD[6:9], at_four)))


@pytest.mark.optimized
def test_rollbacks_are_bounded_and_then_it_halts(form):
    face = returning(form)
    state = run(face, GOOD[:2])
    before = bits(face.held(state))
    state = run(face, [NAN] * 14, state)
    rows = rows_of(state)
    assert rows[-1]["rollbacks"] == 2
    assert rows[-1]["halted"] == 1
    assert bits(face.held(state)) == before


def test_two_runs_with_rollbacks_are_the_same_bits(form):
    batches = [*GOOD[:5], NAN, NAN, NAN, NAN, *GOOD[5:9]]
    face = returning(form)
    once, again = run(face, batches), face.init(params_of())
    for batch in batches:
        again = copied(face.step(copied(again), batch))
    assert bits(once) == bits(again)


def test_skip_nonfinite_rolls_back_at_the_end_of_a_streak(form):
    guards = [skip_nonfinite(max_consecutive=2, on_exhausted="roll_back")]
    face = train_face(guards, form, snapshot_every=3)
    expected = bits(face.held(run(face, GOOD[:3])))
    state = run(face, [*GOOD[:5], NAN, NAN])
    assert bits(face.held(state)) == expected
    row = rows_of(state)[-1]
    assert row["rollbacks"] == 1
    assert row["alerts"] & int(Alert.ROLLBACK)
    assert row["skip_nonfinite/total"] == 2


def test_what_is_halted_does_not_roll_back_any_more(form):
    back = skip_nonfinite(max_consecutive=2, on_exhausted="roll_back")
    face = train_face([back, escalate(roll_back_after=9, halt_after=5)], form)
    rows = rows_of(run(face, [*GOOD[:3], *[NAN] * 12]))[-5:]
    assert all(row["halted"] for row in rows)
    assert {row["rollbacks"] for row in rows} == {2}


def test_the_first_rollback_before_any_snapshot_returns_the_start(form):
    face = returning(form)
    state = run(face, [GOOD[0], NAN, NAN, NAN, NAN])
    assert bits(face.held(state)) == bits(face.held(face.init(params_of())))


def test_a_rollback_needs_snapshots():
    with pytest.raises(ValueError, match="snapshot_every must be >= 1, because the"):
        train_face([escalate()], "select", snapshot_every=None)


@pytest.mark.slow
def test_accept_is_apply_if_finite_of_optax_bit_for_bit():
    guards = [skip_nonfinite(max_consecutive=2, on_exhausted="accept")]
    ours = optax_face(guards)
    theirs = optax_face(None, optax.apply_if_finite(adamw(), 2))
    stream = [GOOD[0], NAN, NAN, GOOD[1], NAN, NAN, NAN, NAN, GOOD[2]]
    a, b = ours.init(params_of()), theirs.init(params_of())
    with jax.disable_jit():  # Compiled, the two contract differently into FMAs.
        for batch in stream:
            a, b = ours.step(a, batch), theirs.step(b, batch)
            for mine, its in leaves_of(a, b):
                np.testing.assert_array_equal(mine, its)
    assert np.isnan(jax.tree.leaves(a)[1]).any()


def leaves_of(ours, theirs):
    left = (ours[0], ours[1].inner_state)
    right = (theirs[0], theirs[1].inner_state)
    return zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)


def test_accept_gives_in_wholly_in_a_train_step_too_and_says_so(form):
    guards = [skip_nonfinite(max_consecutive=2, on_exhausted="accept")]
    face = train_face(guards, form)
    state = run(face, [GOOD[0], NAN, NAN, NAN])
    rows = rows_of(state)
    assert [row["accepted"] for row in rows] == [1, 0, 0, 1]
    assert rows[-1]["alerts"] & int(Alert.ACCEPTED_NONFINITE)
    held = face.held(state)
    assert np.isnan(held.inner[0].mu["core"]["kernel"][0, 0])
    assert np.isnan(held.params["core"]["kernel"][0, 0])


def test_back_off_halves_per_refusal_and_recovers_in_so_many_steps():
    guard = back_off(factor=0.5, after=1, recovery=4, min_scale=0.1)
    norm = np.ones(30)
    norm[[5, 6]] = np.nan
    scale = judge_series(guard, grad_norm=norm).update_scale
    growth = 0.5**-0.25
    exact = [1.0] * 6 + [0.5, 0.25] + [0.25 * growth**n for n in range(1, 9)]
    np.testing.assert_allclose(scale[:16], exact, rtol=1e-5)
    assert scale[-1] == 1.0


def test_back_off_never_goes_below_its_floor_and_counts():
    guard = back_off(factor=0.5, after=1, min_scale=0.1, recovery=1000)
    norm = np.ones(12)
    norm[1:9] = np.nan
    trace = judge_series(guard, grad_norm=norm)
    np.testing.assert_allclose(trace.update_scale[8:10], 0.1, rtol=1e-6)
    assert trace.state.times[-1] == 8
    assert (trace.alerts[2:10] & int(Alert.BACK_OFF)).all()


def test_back_off_scales_the_next_update_after_a_refusal():
    step = optax.sgd(1.0)
    guard = back_off(factor=0.25, after=1)
    plain, guarded = optax_face(None, step), optax_face([guard], step)
    state = guarded.step(guarded.init(params_of()), NAN)
    ours = guarded.step(state, GOOD[0])[0]
    theirs = plain.step(plain.init(params_of()), GOOD[0])[0]
    moved = lambda after: np.asarray(after["core"]["bias"]) - np.float32(0.1)
    np.testing.assert_allclose(moved(ours), 0.25 * moved(theirs), rtol=1e-5)


def test_escalate_halts_after_so_many_refusals_without_rollbacks():
    norm = np.full(20, np.nan)
    norm[0] = 1.0
    trace = judge_series(escalate(roll_back_after=4, max_rollbacks=0), grad_norm=norm)
    assert trace.halt.argmax() == 5
    assert not trace.roll_back.any()
    trace = judge_series(
        escalate(roll_back_after=4, max_rollbacks=9, halt_after=10), grad_norm=norm
    )
    assert trace.roll_back.nonzero()[0].tolist() == [5, 9]
    assert trace.halt.argmax() == 11


def test_a_good_step_between_ends_the_streak_of_escalate():
    norm = np.where(np.arange(60) % 3 == 0, 1.0, np.nan)
    trace = judge_series(escalate(roll_back_after=3), grad_norm=norm)
    assert not trace.roll_back.any()
    assert not trace.halt.any()


def test_the_guard_asks_the_caller_for_a_rollback_behind_optax():
    face = optax_face([skip_nonfinite(max_consecutive=1, on_exhausted="roll_back")])
    state = face.step(face.init(params_of()), NAN)
    assert state[1].roll_back
    assert not face.step(state, GOOD[0])[1].roll_back
