"""Repair that tells: counted, bounded in share and in time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    FACES,
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

from stabjax.guards import repair_nonfinite, skip_nonfinite
from stabjax.transforms import guard
from stabjax.types import Alert

REPAIRED, HALT = int(Alert.REPAIRED), int(Alert.HALT)


@functools.cache
def face_of(form):
    guards = [repair_nonfinite(max_share=0.2), skip_nonfinite()]
    sgd = optax.sgd(0.1)
    return optax_face(guards, sgd) if form == "optax" else train_face(guards, form, sgd)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", FACES)
def test_a_broken_element_stays_and_all_others_move(form, value):
    face = face_of(form)
    after = face.held(run(face, [batch_of(0, gradient=gradient_with(value))])).params
    whole = face.held(run(face, [batch_of(0)])).params
    kernel, start = np.asarray(after["core"]["kernel"]), params_of()["core"]["kernel"]
    assert kernel[0, 0] == start[0, 0]
    moved = np.asarray(whole["core"]["kernel"])
    np.testing.assert_allclose(kernel.ravel()[1:], moved.ravel()[1:], rtol=1e-6)
    np.testing.assert_allclose(after["head"]["out"], whole["head"]["out"], rtol=1e-6)


@pytest.mark.parametrize("form", FACES)
def test_more_than_the_share_is_refused_and_changes_nothing(form):
    face = face_of(form)
    gradient = gradient_with(np.nan, leaf=0)
    gradient["core"]["bias"][:] = np.nan
    state = run(face, [batch_of(0)])
    before = bits(face.held(state))
    state = face.step(state, batch_of(1, gradient=gradient))
    assert bits(face.held(state)) == before
    assert face.core(state).refused == 1
    assert face.core(state).guards[0].elements == 3


def test_the_other_guards_judge_what_is_left():
    rows = rows_of(
        run(face_of("select"), [batch_of(0, gradient=gradient_with(np.inf))])
    )
    assert rows[-1]["alerts"] == REPAIRED
    assert np.isfinite(rows[-1]["grad_norm"])
    assert rows[-1]["skip_nonfinite/total"] == 0
    assert rows[-1]["repair_nonfinite/elements"] == 1


def test_a_non_finite_loss_is_not_repaired():
    face = face_of("select")
    before = bits(face.held(face.init(params_of())))
    assert bits(face.held(run(face, [batch_of(0, loss=np.nan)]))) == before


def test_the_share_is_of_all_elements():
    # The tiny model has ten.
    broken = np.asarray([0, 1, 2, 3, 4, 0])
    trace = judge_series(repair_nonfinite(max_share=0.3), repaired=broken)
    assert trace.accepted.tolist() == [True, True, True, True, False, True]
    assert (trace.alerts == np.where(broken > 0, REPAIRED, 0)).all()
    none = judge_series(repair_nonfinite(max_share=0.0), repaired=broken)
    np.testing.assert_array_equal(none.accepted, broken == 0)
    every = judge_series(repair_nonfinite(max_share=1.0), repaired=[10])
    assert every.accepted[0]


@pytest.mark.parametrize("end", ["halt", "roll_back", "accept"])
def test_a_streak_of_repairs_ends_as_asked(end):
    broken = np.where(np.arange(20) < 5, 0, 1)
    guard_ = repair_nonfinite(max_share=0.5, max_consecutive=4, on_exhausted=end)
    trace = judge_series(guard_, repaired=broken)
    assert trace.accepted[:8].all()
    halts = list(range(8, 20)) if end == "halt" else []
    assert trace.halt.nonzero()[0].tolist() == halts
    backs = [8, 12, 16] if end == "roll_back" else []
    assert trace.roll_back.nonzero()[0].tolist() == backs
    assert trace.accepted.all() == (end == "accept")


def test_steps_and_elements_are_counted():
    state = judge_series(
        repair_nonfinite(max_share=1.0), repaired=[0, 3, 0, 2, 1]
    ).state
    assert (state.steps[-1], state.elements[-1]) == (3, 6)
    assert state.streak.tolist() == [0, 1, 0, 1, 2]


def test_the_count_of_elements_stops_at_the_largest_integer():
    most = 2**31 - 1
    state = judge_series(repair_nonfinite(), repaired=[2.0**30] * 4).state
    assert state.elements.tolist() == [2**30, most, most, most]


def test_zero_nans_of_optax_lets_infinities_pass_and_this_does_not():
    gradient = {"w": jnp.asarray([np.nan, np.inf, 1.0])}
    zero = optax.zero_nans()
    theirs, _ = zero.update(gradient, zero.init(gradient))
    assert np.isinf(theirs["w"]).any(), "optax still does"
    optimizer = guard(optax.identity(), repair_nonfinite(max_share=1.0))
    ours, state = jax.jit(optimizer.update)(gradient, optimizer.init(gradient))
    np.testing.assert_array_equal(ours["w"], [0.0, 0.0, 1.0])
    assert state.alerts == REPAIRED
