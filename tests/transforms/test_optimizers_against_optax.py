"""AdamW, SGD and Lion with guards folded in, against those of optax."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from forms import in_turn
from helpers import bits

from stabjax import transforms
from stabjax.guards import (
    clip_by_global_norm,
    clip_by_group_norm,
    reduce_on_plateau,
    repair_nonfinite,
    reset_moments,
    skip_nonfinite,
    skip_spikes,
)
from stabjax.transforms import guard

SCHEDULE = optax.cosine_decay_schedule(0.05, 30)


def decays(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


CASES = {
    "adamw": ("adamw", {}),
    "adamw with a schedule": ("adamw", {"learning_rate": SCHEDULE}),
    "adamw that looks ahead": ("adamw", {"nesterov": True, "eps_root": 1e-8}),
    "adamw with a mask": ("adamw", {"mask": decays, "weight_decay": 0.1}),
    "adamw with a schedule of the decay": (
        "adamw",
        {"weight_decay": lambda count: 0.1 / (1 + count)},
    ),
    "adamw with bfloat16 moments": ("adamw", {"mu_dtype": jnp.bfloat16}),
    "sgd": ("sgd", {}),
    "sgd with momentum": ("sgd", {"momentum": 0.9, "learning_rate": SCHEDULE}),
    "sgd that looks ahead": ("sgd", {"momentum": 0.9, "nesterov": True}),
    "sgd with a bfloat16 trace": (
        "sgd",
        {"momentum": 0.9, "accumulator_dtype": jnp.bfloat16},
    ),
    "lion": ("lion", {}),
    "lion with a schedule": ("lion", {"learning_rate": SCHEDULE, "mask": decays}),
    "lion with bfloat16 moments": ("lion", {"mu_dtype": jnp.bfloat16}),
}
# Lion and narrow moments are selected in either form.
EACH = [(case, "branch") for case in CASES]
EACH += [("adamw", "select"), ("sgd that looks ahead", "select")]


def pair(case, *guards, form="branch"):
    """Return our optimizer of a case and that of optax."""
    name, options = CASES[case]
    options = {"learning_rate": 0.05} | options
    ours = getattr(transforms, name)(**options, guards=guards, form=form)
    return ours, getattr(optax, name)(**options)


SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


def params_of(dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(rng.normal(size=s), dtype) for k, s in SHAPES.items()}


def gradients(count, dtype=jnp.float32):
    rng = np.random.default_rng(1)
    return [
        {k: np.asarray(rng.normal(size=s), dtype) for k, s in sorted(SHAPES.items())}
        for _ in range(count)
    ]


def bad(value=np.nan):
    gradient = gradients(1)[0]
    gradient["bias"][1] = value
    return gradient


class Step(NamedTuple):
    """A compiled step of an optimizer, and its compiled update alone."""

    init: Callable[..., Any]
    update: Callable[..., Any]
    apply: Callable[..., Any]

    def __call__(self, params, state, gradient):
        return self.apply(params, state, gradient)


def jit_of(optimizer):
    def apply(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return Step(optimizer.init, jax.jit(optimizer.update), jax.jit(apply))


def train(step, series, params=None, state=None):
    """Return parameters and state after the gradients."""
    step = step if isinstance(step, Step) else jit_of(step)
    params = params_of() if params is None else params
    state = step.init(params) if state is None else state
    for gradient in series:
        params, state = step(params, state, gradient)
    return params, state


def assert_close(ours, theirs, ulps=8):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        if jnp.issubdtype(a.dtype, jnp.floating):
            eps = float(jnp.finfo(a.dtype).eps)
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            np.testing.assert_allclose(a, b, rtol=ulps * eps, atol=ulps * eps)
        else:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("case", "form"), EACH)
def test_it_is_the_optimizer_of_optax_and_a_refused_step_changes_no_bit(case, form):
    ours, theirs = pair(case, form=form)
    series = gradients(8)
    step = jit_of(ours)
    params, state = train(step, series)
    expected, inner = train(theirs, series)
    assert_close(params, expected)
    assert_close(state.inner_state, inner)
    assert state.core.applied == 8
    for value in (np.nan, np.inf, -np.inf):
        same, after = step(params, state, bad(value))
        assert bits(same) == bits(params)
        assert bits(after.inner_state) == bits(state.inner_state)
        assert after.core.refused == 1


@pytest.mark.parametrize(
    ("case", "form"), in_turn("adamw", "sgd with momentum", "lion")
)
def test_a_run_with_refused_steps_is_the_run_without_them(case, form):
    ours = jit_of(pair(case, skip_nonfinite(), form=form)[0])
    good = gradients(6)
    mixed = [bad(), *good[:3], bad(np.inf), bad(), *good[3:], bad()]
    params, state = train(ours, mixed)
    expected, alone = train(ours, good)
    assert bits(params) == bits(expected)
    assert bits(state.inner_state) == bits(alone.inner_state)


@pytest.mark.parametrize(
    ("case", "form"), in_turn("adamw", "sgd that looks ahead", "lion")
)
def test_it_does_what_guard_does_around_the_optimizer(case, form):
    guards = (
        clip_by_global_norm(max_norm=0.5),
        clip_by_group_norm(max_norm=0.3, groups=["kernel"]),
        skip_spikes(signals=["gradient_norm"], warmup=4),
    )
    ours, theirs = pair(case, *guards, form=form)
    wrapped = guard(theirs, *guards)
    huge = jax.tree.map(lambda g: 1e4 * g, gradients(1)[0])
    series = [*gradients(8), huge, bad(), *gradients(2)]
    params, state = train(ours, series)
    expected, other = train(wrapped, series)
    assert_close(params, expected)
    assert_close(state.inner_state, other.inner_state)
    assert (state.core.refused, other.core.refused) == (2, 2)
    assert_close(state.core.guards, other.core.guards)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_a_state_of_optax_loads_and_goes_back(name):
    options = {"momentum": 0.9} if name == "sgd" else {}
    ours = getattr(transforms, name)(0.05, **options)
    theirs = getattr(optax, name)(0.05, **options)
    ours, theirs = jit_of(ours), jit_of(theirs)
    series = gradients(9)
    params, inner = train(theirs, series[:3])
    state = ours.init(params)._replace(inner_state=inner)
    params, state = train(ours, series[3:6], params, state)
    params, _ = train(theirs, series[6:], params, state.inner_state)
    assert_close(params, train(theirs, series)[0])


def test_the_update_is_scaled_by_the_plateau_and_the_loss_is_required():
    options = {"patience": 0, "factor": 0.5, "accumulation_size": 1}
    ours = jit_of(transforms.sgd(1.0, guards=[reduce_on_plateau(**options)]))
    params = params_of()
    state, gradient = ours.init(params), gradients(1)[0]
    with pytest.raises(ValueError, match="sgd: reduce_on_plateau judges on the loss"):
        ours.update(gradient, state, params)
    for _ in range(3):
        updates, state = ours.update(gradient, state, params, value=1.0)
    np.testing.assert_array_equal(updates["kernel"], -0.25 * gradient["kernel"])
    assert state.core.guards[0].reductions == 2


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_gradient_whose_square_overflows_never_reaches_the_moments(form):
    ours = jit_of(transforms.adamw(0.05, form=form))
    params, state = train(ours, gradients(2))
    same, after = ours(params, state, bad(1e25))
    assert bits(same) == bits(params)
    assert bits(after.inner_state) == bits(state.inner_state)
    clipped = transforms.adamw(0.05, guards=[clip_by_global_norm()], form=form)
    params, state = train(clipped, [bad(1e25)])
    assert state.core.applied == 1
    assert np.isfinite(params["bias"]).all()
    assert not np.array_equal(params["bias"], params_of()["bias"])


@pytest.mark.parametrize(("name", "form"), in_turn("adamw", "sgd", "lion"))
def test_moments_are_reset_after_the_step_that_asks_for_it(name, form):
    options = {"momentum": 0.9} if name == "sgd" else {}
    again = reset_moments(every=3)
    ours = getattr(transforms, name)(SCHEDULE, **options, guards=[again], form=form)
    series = gradients(6)
    params, state = train(ours, series)
    expected = params_of()
    for begin in (0, 3):
        theirs = getattr(optax, name)(
            lambda count, b=begin: SCHEDULE(b + count), **options
        )
        expected, _ = train(theirs, series[begin : begin + 3], expected)
    assert_close(params, expected)
    fresh = ours.init(params_of()).inner_state
    assert bits(state.inner_state[0]) == bits(fresh[0])
    assert optax.tree.get(state.inner_state[1:], "count") == 6
    assert state.core.guards[0].resets == 2


@pytest.mark.parametrize("form", ["branch", "select"])
def test_what_is_not_finite_is_repaired_where_a_guard_repairs(form):
    ours = transforms.adamw(0.05, guards=[repair_nonfinite(max_share=0.5)], form=form)
    whole = bad(0.0)
    params, state = train(ours, [bad(), bad(np.inf)])
    expected, inner = train(optax.adamw(0.05), [whole, whole])
    assert_close(params, expected)
    assert_close(state.inner_state, inner)
    assert state.core.applied == 2


def test_a_learning_rate_that_is_not_finite_refuses_the_step():
    ours = jit_of(transforms.sgd(lambda count: jnp.where(count < 2, 0.1, jnp.nan)))
    params, state = train(ours, gradients(4))
    assert (state.core.applied, state.core.refused) == (2, 2)
    assert bits(params) == bits(train(ours, gradients(2))[0])


def test_moments_in_float16_are_checked_as_guard_checks_them():
    params = params_of(jnp.float16)
    series = gradients(4, jnp.float16)
    ours = train(transforms.adamw(0.05), series, params)
    wrapped = train(guard(optax.adamw(0.05), ()), series, params)
    assert bits(ours) == bits(wrapped)


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_bfloat16_parameters_give_bfloat16_updates(name):
    params = params_of(jnp.bfloat16)
    series = gradients(5, jnp.bfloat16)
    ours, _ = train(getattr(transforms, name)(0.05), series, params)
    theirs, _ = train(getattr(optax, name)(0.05), series, params)
    assert_close(ours, theirs, ulps=2)


def test_complex_parameters_are_those_of_optax():
    params = {"z": jnp.asarray([1 + 1j, -2j], jnp.complex64)}
    series = [{"z": jnp.asarray([a - 1j, 2 + a * 1j])} for a in (0.5, -1.0, 2.0)]
    for name in ("adamw", "lion"):
        ours, _ = train(getattr(transforms, name)(0.05), series, params)
        theirs, _ = train(getattr(optax, name)(0.05), series, params)
        np.testing.assert_allclose(ours["z"], theirs["z"], rtol=1e-5)


def test_hyperparameters_can_be_injected_and_set():
    ours = optax.inject_hyperparams(transforms.adamw)(learning_rate=0.05)
    theirs = optax.inject_hyperparams(optax.adamw)(learning_rate=0.05)
    series, ends = gradients(4), []
    for optimizer in (jit_of(ours), jit_of(theirs)):
        params, state = train(optimizer, series[:2])
        state.hyperparams["learning_rate"] = jnp.float32(0.01)
        ends.append(train(optimizer, series[2:], params, state)[0])
    assert_close(*ends)


def test_it_is_a_link_of_a_chain():
    ours = optax.chain(optax.clip(0.5), transforms.adamw(0.05), optax.scale(0.5))
    theirs = optax.chain(optax.clip(0.5), optax.adamw(0.05), optax.scale(0.5))
    assert_close(train(ours, gradients(4))[0], train(theirs, gradients(4))[0])


@pytest.mark.parametrize(("name", "form"), [("adamw", "branch"), ("lion", "select")])
def test_it_is_traced_once_and_runs_in_scan(name, form):
    optimizer = getattr(transforms, name)(0.05, guards=[skip_nonfinite()], form=form)
    step = jit_of(optimizer)
    series = [*gradients(3), bad(), *gradients(2)]
    state = step.init(params_of())
    params, state = train(step, series[:1], params_of(), state)
    with compilations() as compiled:
        _, state = step(params, state, series[1])
    assert not compiled

    def scanned(carry, gradient):
        updates, state = optimizer.update(gradient, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *series)
    start = (params_of(), step.init(params_of()))
    (params, state), _ = jax.lax.scan(scanned, start, stacked)
    assert_close((params, state), train(step, series))


@pytest.mark.parametrize("tree", [{}, {"a": None}, {"a": jnp.zeros((0,))}])
@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_an_empty_tree_is_applied(name, tree):
    ours = getattr(transforms, name)(0.05, guards=[clip_by_global_norm()])
    _, state = train(ours, [tree], tree)
    assert state.core.applied == 1


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
def test_a_guard_that_scales_the_loss_is_refused_by_name(name):
    scaling = dataclasses.replace(skip_nonfinite(), loss_scale=lambda _: jnp.ones(()))
    with pytest.raises(ValueError, match=f"{name}: skip_nonfinite scales the loss"):
        getattr(transforms, name)(0.1, guards=[scaling])


def test_the_state_has_strong_dtypes_and_its_own_buffers():
    state = transforms.adamw(SCHEDULE, guards=[skip_spikes()]).init(params_of())
    leaves = jax.tree.leaves(state)
    assert not any(leaf.weak_type for leaf in leaves)
    places = [leaf.unsafe_buffer_pointer() for leaf in leaves]
    assert len(places) == len(set(places))
