"""Failures of other libraries, each reproduced by our peers, none of them ours."""

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

from stabjax import transforms
from stabjax.guards import (
    clip_by_global_norm,
    reduce_on_plateau,
    skip_nonfinite,
    skip_spikes,
)
from stabjax.transforms import guard


def face_with(form, guards, optimizer=None):
    if form == "optax":
        return optax_face(guards, optimizer)
    return train_face(guards, form, optimizer)


NAN = batch_of(5, gradient=gradient_with(np.nan))
MOMENTUM = optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1, momentum=0.9))


@pytest.mark.parametrize("form", FACES)
def test_weight_decay_and_momentum_do_not_move_on_a_refused_step(form):
    face = face_with(form, [skip_nonfinite()], MOMENTUM)
    state = run(face, [batch_of(0), batch_of(1)])
    before = bits(face.held(state))
    state = run(face, [NAN] * 3, state)
    assert bits(face.held(state)) == before


def test_a_nan_times_zero_is_not_an_update():
    optimizer = guard(optax.sgd(1.0), skip_nonfinite())
    gradient = {"a": jnp.asarray([np.nan, 1.0]), "b": jnp.asarray([np.inf])}
    updates, _ = optimizer.update(gradient, optimizer.init(gradient))
    assert bits(updates) == bits(jax.tree.map(jnp.zeros_like, gradient))


@pytest.mark.parametrize("at", [0, 5, 15, 60])
def test_one_nan_does_not_freeze_the_next_window_of_steps(at):
    series = np.random.default_rng(0).lognormal(sigma=0.1, size=256)
    series[at] = np.nan
    trace = judge_series(skip_spikes(), loss=series, grad_norm=series)
    assert (~trace.accepted).nonzero()[0].tolist() == [at]


def test_a_lasting_norm_25_times_as_large_does_not_lock_training_out():
    series = np.where(np.arange(300) < 100, 1.0, 25.0)
    trace = judge_series(skip_spikes(signals=["gradient_norm"]), grad_norm=series)
    assert np.sum(~trace.accepted) == 3
    assert trace.accepted[103:].all()


@pytest.mark.parametrize("level", [1.0, 4096.0, 1e8])
def test_the_spread_of_a_nearly_constant_norm_does_not_cancel(level):
    series = level * (1 + 1e-7 * np.random.default_rng(0).normal(size=500))
    trace = judge_series(skip_spikes(), loss=series, grad_norm=series)
    assert trace.accepted.all()
    assert (trace.state.spread >= 0).all()
    series[400] = 30 * level
    trace = judge_series(skip_spikes(), loss=series, grad_norm=series)
    assert (~trace.accepted).nonzero()[0].tolist() == [400]


def test_no_partition_is_updated_while_another_is_refused():
    kinds = {"core": "adam", "head": "sgd"}
    parts = optax.partition({"adam": optax.adam(0.1), "sgd": optax.sgd(0.1)}, kinds)
    face = optax_face([skip_nonfinite()], parts)
    state = run(face, [batch_of(0)])
    before = bits(face.held(state))
    state = face.step(state, batch_of(1, gradient=gradient_with(np.nan, leaf=2)))
    assert bits(face.held(state)) == before


def test_an_infinite_second_moment_never_freezes_a_leaf_silently():
    optimizer = guard(optax.adam(1e-2))
    params = {"w": jnp.ones(3)}
    gradient = {"w": jnp.asarray([1.0, 1e30, 1.0])}
    updates, state = optimizer.update(gradient, optimizer.init(params), params)
    assert not np.any(updates["w"])
    assert state.core.refused == 1
    assert np.isfinite(state.inner_state[0].nu["w"]).all()
    updates, _ = optimizer.update({"w": jnp.ones(3)}, state, params)
    assert (np.abs(updates["w"]) > 1e-6).all()


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(jnp.float16, 300.0), (jnp.bfloat16, 1e20), (jnp.float32, 1e30)],
)
def test_a_norm_that_overflows_is_no_silent_zero_step(dtype, value):
    gradient = {"w": jnp.full((16,), value, dtype)}
    link = transforms.clip_by_global_norm(1.0)
    ours, _ = link.update(gradient, link.init(gradient))
    theirs, _ = optax.clip_by_global_norm(1.0).update(gradient, optax.EmptyState())
    np.testing.assert_allclose(np.asarray(ours["w"], np.float32), 0.25, rtol=1e-2)
    assert not np.asarray(theirs["w"], np.float32).any(), "optax still does"


def test_a_zero_gradient_and_a_bound_of_zero_make_no_nan():
    with pytest.raises(ValueError, match=r"max_norm must be in \(0, inf\), got 0.0"):
        clip_by_global_norm(max_norm=0.0)
    link = transforms.clip_by_global_norm(1.0)
    zeros = {"w": jnp.zeros(3)}
    updates, _ = link.update(zeros, link.init(zeros))
    np.testing.assert_array_equal(updates["w"], 0.0)


def test_a_nan_in_one_leaf_does_not_spread_to_the_others_by_clipping():
    face = optax_face([clip_by_global_norm(max_norm=1e-3)], optax.sgd(1.0))
    state = run(face, [NAN])
    assert bits(state[0]) == bits(params_of())


def test_multi_steps_recovers_from_a_nan_micro_batch_inside_a_guard():
    face = optax_face([skip_nonfinite()], optax.MultiSteps(optax.sgd(0.1), 3))
    batches = [batch_of(step) for step in range(12)]
    mixed = run(face, [*batches[:4], NAN, *batches[4:9], NAN, *batches[9:]])
    assert bits(face.held(mixed)) == bits(face.held(run(face, batches)))
    assert face.held(mixed).inner.gradient_step == 4


@pytest.mark.parametrize(
    "losses",
    [
        -np.arange(1.0, 31.0),
        np.where(np.arange(30) % 2, np.nan, 30.0 - np.arange(30)),
        np.where(np.arange(30) == 3, -np.inf, 30.0 - np.arange(30)),
    ],
    ids=["negative", "nan", "minus infinity"],
)
def test_a_plateau_is_not_seen_where_the_loss_falls(losses):
    guard = reduce_on_plateau(patience=0, factor=0.5, accumulation_size=1)
    trace = judge_series(guard, loss=losses)
    assert (trace.update_scale == 1.0).all()
    flat = judge_series(guard, loss=np.full(30, losses[0]))
    assert flat.update_scale[2] == 0.25


@pytest.mark.parametrize("form", FACES)
def test_a_plateau_of_a_bfloat16_loss_keeps_its_state_in_float32(form):
    plateau = reduce_on_plateau(patience=1, factor=0.5, accumulation_size=1)
    face = face_with(form, [plateau])
    state = face.init(params_of(jnp.bfloat16))
    for _ in range(4):
        state = face.step(state, batch_of(0))
    state = face.core(state).guards[0]
    assert (state.scale.dtype, state.best.dtype) == (jnp.float32, jnp.float32)


def test_the_schedule_does_not_advance_on_refused_steps():
    face = train_face([skip_nonfinite()], "select")
    state = run(face, [batch_of(0), NAN, NAN, batch_of(1)])
    counts = [c for _, c in optax.tree.get_all_with_path(state.opt_state, "count")]
    assert [int(c) for c in counts] == [2, 2]
    assert rows_of(state)[-1]["applied_total"] == 2
