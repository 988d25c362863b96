"""The contract that every registered guard holds, behind every face."""

import jax
import numpy as np
import pytest
from compilations import compilations
from helpers import (
    FACES,
    all_finite,
    batch_of,
    bits,
    copied,
    face_of,
    face_with,
    face_without_guards,
    gradient_with,
    guards_behind,
    params_of,
    run,
    train_face,
)

from stabjax.guards import GUARDS, skip_nonfinite

BAD = (np.nan, np.inf, -np.inf)
PLACES = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 3), (1, 5), (2, 0)]
GRADIENTS = [gradient_with(value, *at) for value in BAD for at in PLACES]
# To take smaller steps after a refusal is its purpose, unless it waits for more.
PATIENT = {"back_off": {"after": 99}}


BRANCH, *OTHERS = FACES
FORMS = [BRANCH, *(pytest.param(form, marks=pytest.mark.slow) for form in OTHERS)]


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    return request.param


@pytest.fixture(scope="module", params=sorted(GUARDS))
def name(request):
    return request.param


@pytest.fixture(scope="module")
def face(name, form):
    if name not in guards_behind(form):
        pytest.skip(f"{name} needs a train step")
    return face_of(name, form)


@pytest.fixture(scope="module")
def warm(face):
    return run(face, [batch_of(step) for step in range(3)])


def faults(form):
    """Return every broken batch; components and model state exist in a train step."""
    bad = [batch_of(5, gradient=g) for g in GRADIENTS]
    bad += [batch_of(5, loss=value) for value in BAD]
    if form != "optax":
        bad += [batch_of(5, component=value) for value in BAD]
        bad += [batch_of(5, state=value) for value in BAD]
    return bad


@pytest.mark.slow
def test_a_quiet_guard_computes_the_unguarded_step_bit_for_bit(face):
    with jax.disable_jit():  # Compiled, the plain step contracts into an FMA.
        guarded = face.held(run(face, [batch_of(0), batch_of(1)])).params
        plain = run(face_without_guards(), [batch_of(0), batch_of(1)])[0]
    assert bits(guarded) == bits(plain)


def test_compiled_it_differs_by_the_rounding_of_a_contraction_at_most(face):
    batches = [batch_of(step) for step in range(8)]
    guarded = jax.tree.leaves(face.held(run(face, batches)).params)
    plain = jax.tree.leaves(run(face_without_guards(), batches)[0])
    for ours, theirs in zip(guarded, plain, strict=True):
        np.testing.assert_array_max_ulp(np.asarray(ours), np.asarray(theirs), 8)


def test_a_step_with_anything_non_finite_changes_no_bit(face, form, warm):
    before = bits(face.held(warm))
    for batch in faults(form):
        after = face.step(copied(warm), batch)
        assert bits(face.held(after)) == before


def test_a_refusal_is_counted_and_the_next_step_is_applied(face, form, warm):
    was = face.core(warm)
    for batch in (batch_of(5, gradient=GRADIENTS[0]), batch_of(5, loss=np.nan)):
        core = face.core(face.step(copied(warm), batch))
        assert core.refused == was.refused + 1
        assert core.consecutive_refused == 1
        assert (core.step, core.applied) == (was.step + 1, was.applied)
    good = face.core(run(face, [batch, batch_of(6)], copied(warm)))
    assert (good.applied, good.consecutive_refused) == (was.applied + 1, 0)


def test_a_run_with_refused_steps_equals_the_run_without_them(name, form, face):
    face = face_with(PATIENT[name], name, form) if name in PATIENT else face
    good = [batch_of(step) for step in range(12)]
    bad = [batch_of(99, gradient=GRADIENTS[i]) for i in (0, 9, 16)]
    bad += [batch_of(99, loss=np.nan), batch_of(99, loss=np.inf)]
    mixed = [*bad[:2], *good[:1], *bad[2:], *good[1:7], bad[0], *good[7:], bad[3]]
    assert bits(face.held(run(face, mixed))) == bits(face.held(run(face, good)))


def test_the_state_of_a_guard_stays_finite_whatever_it_is_shown(face, form, warm):
    state = copied(warm)
    for batch in faults(form)[::2]:
        state = run(face, [batch, batch_of(7)], state)
        for guard_state in face.core(state).guards:
            # The best of a plateau is infinite until there is one.
            assert all_finite(guard_state._asdict() | {"best": 0.0})


def test_a_fault_in_the_very_first_step_is_refused(face):
    before = bits(face.held(face.init(params_of())))
    for fault in ({"gradient": GRADIENTS[0]}, {"loss": np.nan}):
        state = face.step(face.init(params_of()), batch_of(**fault))
        assert bits(face.held(state)) == before


def test_a_step_is_traced_once(face, warm):
    batches = [batch_of(1), batch_of(2, loss=np.nan), batch_of(3)]
    state = copied(warm)
    with compilations() as compiled:
        run(face, batches, state)
    assert not compiled


def test_the_state_keeps_structure_shapes_and_strong_dtypes(face, warm):
    def described(state):
        leaves = [(x.shape, x.dtype, x.weak_type) for x in jax.tree.leaves(state)]
        return jax.tree.structure(state), leaves

    start = described(face.init(params_of()))
    assert not any(weak for *_, weak in start[1])
    assert described(warm) == start
    assert described(run(face, [batch_of(loss=np.nan)], copied(warm))) == start


def test_no_two_leaves_share_a_buffer_and_the_caller_keeps_his_arrays(face):
    params = params_of()
    before = bits(params)
    state = face.init(params)
    for _ in range(3):
        places = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(state) if x.size]
        assert len(places) == len(set(places))
        state = face.step(state, batch_of(1))
    assert bits(params) == before


def test_a_state_restored_from_numpy_continues_bit_for_bit(face, warm):
    saved = jax.tree.map(np.asarray, copied(warm))
    rest = [batch_of(7), batch_of(8, loss=np.nan), batch_of(9)]
    restored, straight = jax.tree.map(jax.numpy.array, saved), copied(warm)
    with compilations() as compiled:
        ends = run(face, rest, restored), run(face, rest, straight)
    assert not compiled
    assert bits(ends[0]) == bits(ends[1])


@pytest.mark.parametrize("form", ["branch", "select"])
def test_the_long_streak_is_never_accepted_by_default(form):
    face = train_face([skip_nonfinite(max_consecutive=3)], form)
    state = run(face, [batch_of(0)])
    before = bits(face.held(state))
    state = run(face, [batch_of(1, gradient=GRADIENTS[3])] * 30, state)
    assert bits(face.held(state)) == before
