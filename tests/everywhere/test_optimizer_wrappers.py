"""Where guards stand among optax's own wrappers, and what then moves on a refusal."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    FACES,
    all_finite,
    batch_of,
    bits,
    gradient_with,
    optax_face,
    run,
    train_face,
)

from stabjax import transforms
from stabjax.guards import clip_by_global_norm
from stabjax.transforms import guard

CLEAN = [batch_of(step) for step in range(8)]
# One broken element in each leaf in turn; the leaves of a partition are among them.
BROKEN = [batch_of(9, gradient=gradient_with(np.nan, leaf=leaf)) for leaf in range(3)]
KINDS = {"core": "adam", "head": "sgd"}


def face_with(form, optimizer):
    if form == "optax":
        return optax_face([clip_by_global_norm(max_norm=1e6)], optimizer)
    return train_face([], form, optimizer)


@pytest.mark.parametrize("form", FACES)
def test_all_partitions_stand_still_when_the_gradient_of_one_is_nan(form):
    parts = {"adam": optax.adam(0.1), "sgd": optax.sgd(0.1, momentum=0.9)}
    face = face_with(form, optax.partition(parts, KINDS))
    state = run(face, CLEAN[:2])
    before = bits(face.held(state))
    state = run(face, BROKEN, state)
    assert bits(face.held(state)) == before
    assert face.core(state).refused == 3


@pytest.mark.parametrize("form", FACES)
def test_a_nan_where_the_optimizer_never_moves_costs_no_step(form):
    frozen = {"core": True, "head": False}
    hidden = optax.chain(
        optax.masked(optax.sgd(0.1, momentum=0.9), frozen),
        optax.masked(optax.set_to_zero(), {"core": False, "head": True}),
    )
    face = face_with(form, hidden)
    state = run(face, [*CLEAN[:2], BROKEN[2]])
    assert face.core(state).applied == 3
    assert all_finite(face.held(state).params)


def test_a_guard_inside_a_mask_judges_only_what_the_mask_lets_through():
    optimizer = optax.masked(guard(optax.sgd(1.0)), {"in": True, "out": False})
    params = {"in": jnp.ones(2), "out": jnp.ones(2)}
    state = optimizer.init(params)
    gradient = {"in": jnp.ones(2), "out": jnp.asarray([np.nan, 1.0])}
    updates, state = optimizer.update(gradient, state, params)
    np.testing.assert_array_equal(updates["in"], -1.0)
    assert state.inner_state.core.applied == 1


@pytest.mark.parametrize("form", FACES)
def test_an_injected_schedule_stands_still_on_refused_steps(form):
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    face = face_with(form, optax.inject_hyperparams(optax.sgd)(schedule))
    state = run(face, [CLEAN[0], *BROKEN, CLEAN[1], CLEAN[2]])
    inner = face.held(state).inner
    assert inner.count == 3
    np.testing.assert_allclose(inner.hyperparams["learning_rate"], 0.08, rtol=1e-6)


def test_a_schedule_around_the_guard_moves_on_so_the_guard_belongs_outside():
    schedule = optax.linear_schedule(0.1, 0.0, 10)
    guarded = lambda learning_rate: guard(optax.sgd(learning_rate))
    optimizer = optax.inject_hyperparams(guarded)(schedule)
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    _, state = optimizer.update({"w": jnp.full((2,), np.nan)}, state, params)
    assert state.inner_state.core.refused == 1
    assert state.count == 1


BOUNDED = {
    "clip_by_global_norm": lambda bound: transforms.clip_by_global_norm(bound),
    "clip_by_group_norm": lambda bound: transforms.clip_by_group_norm(bound, ["w"]),
    "clip_by_block_rms": lambda bound: transforms.clip_by_block_rms(bound),
    "skip_large": lambda bound: transforms.skip_large(optax.identity(), bound),
}


@pytest.mark.parametrize("name", BOUNDED)
def test_an_injected_bound_acts_as_the_same_number(name):
    schedule = lambda count: 4.0 / (count + 1)
    optimizer = optax.inject_hyperparams(BOUNDED[name])(schedule)
    gradient = {"w": jnp.asarray([0.6, 0.8, 0.0, 0.0])}
    state, step = optimizer.init(gradient), jax.jit(optimizer.update)
    for count in range(12):
        updates, state = step(gradient, state)
        plain = BOUNDED[name](schedule(count))
        expected, _ = plain.update(gradient, plain.init(gradient))
        np.testing.assert_allclose(updates["w"], expected["w"], rtol=1e-6)
    assert not np.array_equal(updates["w"], gradient["w"])  # the bound came to act


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_a_step_whose_injected_bound_is_not_positive_is_refused(name, bad):
    optimizer = optax.inject_hyperparams(BOUNDED[name])(1.0)
    gradient = {"w": jnp.asarray([0.6, 0.8])}
    state = optimizer.init(gradient)
    state.hyperparams[next(iter(state.hyperparams))] = jnp.float32(bad)
    updates, state = optimizer.update(gradient, state)
    assert not np.any(updates["w"])
    assert optax.tree.get(state, "refused") == 1


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_nan_micro_batch_in_multi_steps_is_replaced_by_the_next(form):
    steps = optax.MultiSteps(optax.adam(0.1), 2)
    face = train_face([], form, steps.gradient_transformation())
    mixed = [CLEAN[0], BROKEN[0], CLEAN[1], CLEAN[2], BROKEN[1], BROKEN[2], CLEAN[3]]
    state, clean = run(face, mixed), run(face, CLEAN[:4])
    assert bits(face.held(state)) == bits(face.held(clean))
    assert face.held(state).inner.gradient_step == 2


def test_look_ahead_keeps_both_sets_of_parameters_on_a_refused_step():
    optimizer = guard(optax.lookahead(optax.adam(0.1), 2, 0.5))
    params = optax.LookaheadParams.init_synced({"w": jnp.ones(3)})
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    for _ in range(3):
        updates, state = step({"w": jnp.ones(3)}, state, params)
        params = optax.apply_updates(params, updates)
    before = bits(state.inner_state)
    updates, state = step({"w": jnp.asarray([1.0, np.inf, 1.0])}, state, params)
    assert bits(updates) == bits(jax.tree.map(jnp.zeros_like, params))
    assert bits(state.inner_state) == before
    assert not np.array_equal(params.fast["w"], params.slow["w"])


def test_what_stands_before_a_guard_in_a_chain_moves_and_what_is_inside_does_not():
    inside = guard(optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.1)))
    optimizer = optax.chain(optax.ema(0.9), inside)
    params = {"w": jnp.ones(2)}
    state = optimizer.init(params)
    step = jax.jit(optimizer.update)
    _, state = step({"w": jnp.ones(2)}, state, params)
    before = bits(state[1].inner_state)
    updates, state = step({"w": jnp.full((2,), np.nan)}, state, params)
    assert not np.any(updates["w"])
    assert bits(state[1].inner_state) == before
    assert np.isnan(state[0].ema["w"]).all()
