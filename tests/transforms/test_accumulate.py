"""Accumulation against one large batch, against MultiSteps, and with bad batches."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from forms import first_of, in_turn
from helpers import bits

from stabjax.guards import (
    clip_by_global_norm,
    reduce_on_plateau,
    repair_nonfinite,
    reset_moments,
    skip_nonfinite,
    skip_spikes,
)
from stabjax.transforms import accumulate, adamw, guard

FORMS = ("branch", "select")
SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}
apply_updates = jax.jit(optax.apply_updates)


def params_of(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in SHAPES.items()}


def gradients(count, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return [
        {k: np.asarray(rng.normal(size=s), dtype) for k, s in sorted(SHAPES.items())}
        for _ in range(count)
    ]


def bad(value=np.nan, seed=0):
    gradient = gradients(seed + 1)[seed]
    gradient["bias"][1] = value
    return gradient


def compiled(optimizer):
    update = jax.jit(optimizer.update)
    return optax.GradientTransformationExtraArgs(optimizer.init, update)


def train(optimizer, series, params=None, values=None):
    """Return parameters and state after the micro-batches, and every update."""
    params = params_of() if params is None else params
    state, updates = optimizer.init(params), []
    for place, gradient in enumerate(series):
        extra = {} if values is None else {"value": jnp.float32(values[place])}
        update, state = optimizer.update(gradient, state, params, **extra)
        params = apply_updates(params, update)
        updates.append(update)
    return params, state, updates


def is_zero(tree):
    return not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(tree))


def assert_close(ours, theirs, rtol=2e-6):
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-7)


def mean_of(series):
    return jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *series)


@functools.cache
def adam_of(form, every=4):
    return compiled(accumulate(optax.adamw(0.05), every, form=form))


@pytest.mark.parametrize("form", FORMS)
def test_it_equals_one_large_batch_and_moves_only_when_it_emits(form):
    series = gradients(8)
    params, state, updates = train(adam_of(form), series)
    large = [mean_of(series[:4]), mean_of(series[4:])]
    expected, inner, _ = train(compiled(optax.adamw(0.05)), large)
    assert_close(params, expected)
    assert_close(state.inner_opt_state, inner)
    assert [not is_zero(u) for u in updates] == [False, False, False, True] * 2
    assert (state.gradient_step, state.mini_step, state.core.applied) == (2, 0, 8)


@pytest.mark.parametrize("form", FORMS)
def test_it_equals_the_multi_steps_of_optax_on_clean_data(form):
    series = gradients(11)
    params, state, _ = train(adam_of(form), series)
    theirs = optax.MultiSteps(optax.adamw(0.05), 4).gradient_transformation()
    expected, other, _ = train(compiled(theirs), series)
    assert_close(params, expected)
    assert_close(state.inner_opt_state, other.inner_opt_state)
    assert (state.mini_step, state.gradient_step) == (3, 2)
    assert (other.mini_step, other.gradient_step) == (3, 2)
    assert_close(state.acc_grads, other.acc_grads)


@pytest.mark.parametrize("form", FORMS)
def test_a_bad_micro_batch_is_replaced_by_the_next_and_leaves_no_trace(form):
    good = gradients(8)
    mixed = [good[0], bad(), *good[1:4], bad(np.inf), bad(-np.inf), *good[4:], bad()]
    params, state, _ = train(adam_of(form), mixed)
    expected, other, _ = train(adam_of(form), good)
    assert bits(params) == bits(expected)
    assert bits(state.inner_opt_state) == bits(other.inner_opt_state)
    assert (state.core.refused, state.gradient_step, state.short) == (4, 2, 0)


def test_multi_steps_keeps_the_nan():
    theirs = optax.MultiSteps(optax.adamw(0.05), 4).gradient_transformation()
    params, _, _ = train(compiled(theirs), [*gradients(3), bad(), *gradients(4)])
    assert np.isnan(params["bias"][1])


@pytest.mark.parametrize("form", first_of("select", "branch"))
def test_it_can_emit_the_mean_of_those_that_are_left(form):
    optimizer = accumulate(optax.sgd(1.0), 3, on_refused="emit", form=form)
    good = gradients(3)
    series = [good[0], bad(), good[1], bad(), bad(), bad(), bad(), good[2], bad()]
    _, state, updates = train(compiled(optimizer), series)
    at = [place for place, update in enumerate(updates) if not is_zero(update)]
    assert at == [2, 8]
    assert_close(updates[2], jax.tree.map(jnp.negative, mean_of(good[:2])))
    assert_close(updates[8], jax.tree.map(jnp.negative, good[2]))
    assert (state.gradient_step, state.short, state.core.refused) == (2, 2, 6)


@pytest.mark.parametrize("form", first_of("branch", "select"))
def test_guards_judge_each_micro_batch(form):
    spikes = skip_spikes(signals=["gradient_norm"], warmup=4)
    optimizer = accumulate(optax.sgd(1.0), 2, spikes, skip_nonfinite(), form=form)
    huge = jax.tree.map(lambda g: np.float32(1e4) * g, gradients(1)[0])
    good = gradients(12)
    params, state, _ = train(compiled(optimizer), [*good[:9], huge, *good[9:]])
    expected, _, _ = train(compiled(accumulate(optax.sgd(1.0), 2, form=form)), good)
    assert bits(params) == bits(expected)
    assert state.core.refused == 1


def test_clipping_outside_is_of_each_micro_batch_and_inside_of_the_mean():
    clip = clip_by_global_norm(max_norm=1.0)
    up, down = jnp.asarray([30.0, 0.0]), jnp.asarray([-10.0, 0.0])
    outside = compiled(accumulate(optax.sgd(1.0), 2, clip))
    inside = compiled(accumulate(guard(optax.sgd(1.0), clip), 2))
    zero = jnp.zeros(2)
    np.testing.assert_allclose(train(outside, [up, down], zero)[0], [0, 0], atol=1e-7)
    np.testing.assert_allclose(train(inside, [up, down], zero)[0], [-1, 0], atol=1e-7)


@pytest.mark.parametrize("form", first_of("select", "branch"))
def test_the_inner_optimizer_is_given_the_mean_value_and_every_extra_argument(form):
    def update(updates, state, params=None, *, value, factor):
        del state, params
        return updates, value * factor

    inner = optax.GradientTransformationExtraArgs(lambda _: jnp.zeros(()), update)
    optimizer = compiled(accumulate(inner, 3, form=form))
    state = optimizer.init(jnp.zeros(()))
    for value in (1.0, np.nan, 2.0, 6.0):
        assert state.inner_opt_state == 0.0
        extra = {"value": jnp.float32(value), "factor": 10.0}
        _, state = optimizer.update(jnp.ones(()), state, **extra)
    assert state.inner_opt_state == 30.0
    assert state.core.refused == 1


def test_a_plateau_inside_sees_means_not_the_last_value():
    plateau = guard(
        optax.sgd(1.0), reduce_on_plateau(patience=0, factor=0.5, accumulation_size=1)
    )
    optimizer = compiled(accumulate(plateau, 2))
    # The means fall, 2.5 and then 2; the last value of each pair rises.
    _, state, updates = train(
        optimizer, [jnp.ones(())] * 4, jnp.zeros(()), values=[4.0, 1.0, 2.0, 2.0]
    )
    assert [float(u) for u in updates] == [0.0, -1.0, 0.0, -1.0]
    # The one outside sees every value, and scales what is emitted.
    outside = accumulate(
        optax.sgd(1.0),
        2,
        reduce_on_plateau(patience=0, factor=0.5, accumulation_size=1),
    )
    _, state, updates = train(
        compiled(outside), [jnp.ones(())] * 4, jnp.zeros(()), values=[1.0] * 4
    )
    assert state.core.guards[0].reductions == 3
    assert [float(u) for u in updates] == [0.0, -0.5, 0.0, -0.125]


def test_a_guard_that_reads_the_loss_requires_it():
    optimizer = accumulate(optax.sgd(1.0), 2, skip_spikes())
    with pytest.raises(ValueError, match="accumulate: skip_spikes judges on the loss"):
        optimizer.update(jnp.ones(2), optimizer.init(jnp.ones(2)), jnp.ones(2))


def test_every_can_be_a_schedule_over_the_updates():
    optimizer = accumulate(optax.sgd(1.0), lambda step: jnp.where(step < 2, 1, 3))
    _, _, updates = train(compiled(optimizer), gradients(8))
    at = [place for place, update in enumerate(updates) if not is_zero(update)]
    assert at == [0, 1, 4, 7]


@pytest.mark.parametrize(("dtype", "form"), in_turn(jnp.float16, jnp.bfloat16))
def test_the_mean_of_low_precision_is_taken_in_float32(dtype, form):
    params = jnp.zeros((3,), dtype)
    optimizer = compiled(accumulate(optax.sgd(1.0), 256, form=form))
    state = optimizer.init(params)
    assert state.acc_grads.dtype == jnp.float32
    series = jnp.linspace(1.0, 2.0, 256).astype(dtype)

    def step(carry, gradient):
        params, state = carry
        update, state = optimizer.update(jnp.full((3,), gradient), state, params)
        return (optax.apply_updates(params, update), state), update.dtype.type(0)

    (params, state), _ = jax.lax.scan(step, (params, state), series)
    mean = np.mean(np.asarray(series, np.float64))
    assert params.dtype == dtype
    np.testing.assert_allclose(state.acc_grads, mean, rtol=1e-6)
    np.testing.assert_array_equal(params, np.asarray(-mean, dtype))


@pytest.mark.parametrize("form", FORMS)
def test_it_is_traced_once_and_its_state_has_strong_dtypes_and_own_buffers(form):
    optimizer = adam_of(form)
    params, state, _ = train(optimizer, gradients(1))
    with compilations() as names:
        for gradient in [*gradients(5), bad()]:
            _, state = optimizer.update(gradient, state, params)
    assert not names
    leaves = jax.tree.leaves(accumulate(optax.adamw(0.1), 4).init(params_of()))
    assert not any(leaf.weak_type for leaf in leaves)
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(places) == len(set(places))
    described = lambda s: [(x.shape, x.dtype) for x in jax.tree.leaves(s)]
    assert described(state) == described(optimizer.init(params))


@pytest.mark.parametrize("form", first_of("select", "branch"))
def test_an_update_that_is_not_finite_is_not_emitted_and_counted(form):
    def broken(updates, state, params=None):
        return jax.tree.map(jnp.log, updates), state + 1

    inner = optax.GradientTransformation(lambda _: jnp.zeros((), jnp.int32), broken)
    optimizer = compiled(accumulate(inner, 2, form=form))
    series = [jnp.asarray(x) for x in (-1.0, -3.0, 1.0, 1.0)]
    _, state, updates = train(optimizer, series, jnp.zeros(()))
    assert is_zero(updates)
    assert (state.lost, state.gradient_step, state.inner_opt_state) == (1, 1, 1)
    assert state.mini_step == 0


@pytest.mark.parametrize("form", FORMS)
def test_a_micro_batch_whose_square_would_overflow_is_left_out(form):
    params, state, _ = train(adam_of(form), [bad(1e25), *gradients(4)])
    assert bits(params) == bits(train(adam_of(form), gradients(4))[0])
    assert state.core.refused == 1


@pytest.mark.parametrize("form", first_of("branch", "select"))
def test_a_reset_is_of_the_inner_optimizer_and_a_repair_of_the_micro_batch(form):
    guards = (reset_moments(every=8), repair_nonfinite(max_share=0.5))
    optimizer = compiled(accumulate(optax.adamw(0.05), 4, *guards, form=form))
    series = [bad(), *gradients(7)]
    params, state, _ = train(optimizer, series)
    expected, _, _ = train(adam_of(form), [bad(0.0), *gradients(7)])
    assert_close(params, expected)
    assert (state.core.refused, state.inner_opt_state[0].count) == (0, 0)
    assert is_zero(state.inner_opt_state[0].mu)


def test_folded_and_guarded_optimizers_can_be_inside():
    series = gradients(8)
    expected, _, _ = train(adam_of("branch"), series)
    for inner in (adamw(0.05), guard(optax.adamw(0.05))):
        params, state, _ = train(compiled(accumulate(inner, 4)), series)
        assert_close(params, expected)
        assert state.inner_opt_state.core.applied == 2


def test_what_has_halted_emits_nothing_more():
    halting = skip_nonfinite(max_consecutive=2)
    optimizer = compiled(accumulate(optax.sgd(1.0), 5, halting, on_refused="emit"))
    _, state, updates = train(optimizer, [*gradients(1), *[bad()] * 4, *gradients(6)])
    assert state.core.halted
    assert is_zero(updates)


@pytest.mark.parametrize("form", first_of("select", "branch"))
def test_a_round_leaves_nothing_behind_for_the_next(form):
    optimizer = compiled(accumulate(optax.sgd(1.0), 2, form=form))
    series = [jnp.float32(x) for x in (3e10, 1e10, 0.5, 0.25)]
    _, _, updates = train(optimizer, series, jnp.zeros(()))
    assert [float(u) for u in updates] == [0.0, -2e10, 0.0, -0.375]


@pytest.mark.parametrize(
    ("tree", "form"), in_turn({}, {"a": None}, {"a": np.zeros(0, np.float32)})
)
def test_an_empty_tree_is_emitted(tree, form):
    optimizer = accumulate(optax.adam(0.1), 1, form=form)
    _, state = jax.jit(optimizer.update)(tree, optimizer.init(tree), tree)
    assert (state.gradient_step, state.emitted) == (1, True)


def test_every_must_be_a_positive_whole_number():
    with pytest.raises(ValueError, match=r"every must be a whole number >= 1, got 0"):
        accumulate(optax.sgd(1.0), 0)
