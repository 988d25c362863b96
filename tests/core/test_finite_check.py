"""Finite gradients that would end in a non-finite state or update."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from stabjax.core.headroom import holds_squares, survives_probe
from stabjax.health import decode
from stabjax.train_step import make_train_step
from stabjax.transforms import guard
from stabjax.types import Alert

CHECKS = ("headroom", "outcome")
PARAMS = {"a": jnp.ones((4,)), "b": jnp.ones((2,))}


@pytest.fixture(scope="module", params=["branch", "select"])
def form(request):
    return request.param


@functools.cache
def stepper(form, check, optimizer=None):
    """Return a start and a jitted ``(state, gradients) -> state``."""
    optimizer = optimizer or optax.adam(1e-2)
    options = {"form": form, "finite_check": check}
    train = make_train_step(lambda p, b, k: (b, {}), optimizer, **options)
    state = train.init(PARAMS, jnp.ones(()))
    step = jax.jit(lambda s, g: train.apply_gradients(s, jnp.float32(1), {}, g)[0])
    return state, step


def gradient(value=1.0):
    return {"a": jnp.ones((4,)).at[2].set(value), "b": jnp.ones((2,))}


def last(state):
    ring = state.telemetry
    return decode(ring.schema, np.asarray(ring.floats), np.asarray(ring.ints))[-1]


def finite(tree):
    return all(bool(jnp.all(jnp.isfinite(x))) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("value", [1e30, -1e25, 3e38])
def test_one_huge_gradient_does_not_freeze_adam(form, check, value):
    state, step = stepper(form, check)
    state = step(step(state, gradient()), gradient(value))
    assert last(state)["accepted"] == 0
    before = np.asarray(state.params["a"])
    state = step(state, gradient())
    assert finite(state.opt_state)
    assert np.min(np.abs(np.asarray(state.params["a"]) - before)) > 1e-6


def test_the_refusal_says_why(form):
    for check, cause in zip(CHECKS, ("GRADIENT_RANGE", "NONFINITE_STATE"), strict=True):
        state, step = stepper(form, check)
        row = last(step(state, gradient(1e30)))
        assert row["alerts"] == int(Alert[cause] | Alert.NORM_OVERFLOW)


@pytest.mark.parametrize("check", CHECKS)
def test_the_largest_gradient_that_is_accepted_keeps_the_state_finite(form, check):
    state, step = stepper(form, check)
    state = step(state, {"a": jnp.full((4,), 2.0**60), "b": jnp.zeros((2,))})
    assert last(state)["accepted"] == 1
    assert finite((state.params, state.opt_state))


def poked(state):
    """Put a NaN into a first moment, as a flipped bit would."""
    adam, *rest = state.opt_state
    mu = adam.mu | {"a": adam.mu["a"].at[2].set(jnp.nan)}
    return state._replace(opt_state=(adam._replace(mu=mu), *rest))


def test_outcome_refuses_a_step_that_a_corrupt_moment_would_spoil(form):
    state, step = stepper(form, "outcome")
    state = step(poked(state), gradient())
    row = last(state)
    assert row["accepted"] == 0
    assert row["alerts"] == int(Alert.NONFINITE_STATE)
    np.testing.assert_array_equal(state.params["a"], PARAMS["a"])


def test_headroom_keeps_the_parameter_of_a_corrupt_moment_and_moves_the_others(form):
    state, step = stepper(form, "headroom")
    state = step(poked(state), gradient())
    assert finite(state.params)
    # The price of a check that costs nothing: the element stands still, unreported.
    assert last(state)["alerts"] == 0
    moved = np.asarray(state.params["a"]) != 1.0
    assert moved.tolist() == [True, True, False, True]


def cube_of_gradient():
    return optax.stateless(lambda g, _: jax.tree.map(lambda x: -(x**3), g))


def nan_from_finite():
    return optax.stateless(lambda g, _: jax.tree.map(lambda x: jnp.log(2.0 - x), g))


@pytest.mark.parametrize("exotic", [cube_of_gradient, nan_from_finite])
def test_a_finite_gradient_that_becomes_a_bad_update_is_refused(form, exotic):
    state, step = stepper(form, "outcome", exotic())
    state = step(state, gradient(3e13))
    assert last(state)["accepted"] == 0
    np.testing.assert_array_equal(state.params["a"], PARAMS["a"])
    optimizer = guard(exotic())
    updates, after = optimizer.update(gradient(3e13), optimizer.init(PARAMS), PARAMS)
    assert not any(np.any(u) for u in jax.tree.leaves(updates))
    assert after.alerts == int(Alert.NONFINITE_STATE)


class MyState(optax.EmptyState):
    """A state that the headroom rule has never heard of."""


def test_an_unknown_optimizer_gets_the_outcome_check_by_itself(form):
    def update(g, state, params=None):
        return jax.tree.map(lambda x: jnp.log(2.0 - x), g), state

    mine = optax.GradientTransformation(lambda p: MyState(), update)
    state, step = stepper(form, None, mine)
    row = last(step(state, gradient(3.0)))
    assert row["alerts"] == int(Alert.NONFINITE_STATE)


@pytest.mark.parametrize(
    ("optimizer", "known"),
    [
        (optax.adamw(optax.linear_schedule(1.0, 0.0, 9)), True),
        (optax.sgd(0.1, momentum=0.9, nesterov=True), True),
        (optax.rmsprop(0.1), True),
        (optax.lion(0.1), True),
        (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)), True),
        (optax.adamw(0.1, mask={"a": True, "b": False}), True),
        (optax.partition({"x": optax.adam(0.1)}, {"a": "x", "b": "x"}), True),
        (optax.adafactor(0.1), False),
        (optax.contrib.muon(0.1), False),
        (optax.apply_if_finite(optax.adam(0.1), 3), False),
        (optax.MultiSteps(optax.adam(0.1), 2), False),
        (optax.inject_hyperparams(optax.adam)(0.1), False),
    ],
)
def test_headroom_knows_the_optimizers_that_square_at_most(optimizer, known):
    params = jax.tree.map(lambda x: jnp.ones((4, 4)), PARAMS)
    assert holds_squares(optimizer.init(params)) is known


def test_a_float16_state_has_no_headroom():
    params = jax.tree.map(lambda x: x.astype(jnp.float16), PARAMS)
    assert not holds_squares(optax.adam(0.1).init(params))
    wide = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    assert holds_squares(optax.adam(0.1).init(wide))


def test_a_stateless_optimizer_of_unknown_degree_gets_the_outcome_check(form):
    state, step = stepper(form, None, nan_from_finite())
    assert last(step(state, gradient(3.0)))["accepted"] == 0


def test_an_optimizer_that_misses_an_argument_in_the_probe_is_not_taken_for_safe():
    def update(updates, state, params=None, **extra):
        return jax.tree.map(lambda g: g * extra["temperature"], updates), state

    needy = optax.GradientTransformationExtraArgs(lambda params: (), update)
    assert not survives_probe(needy, {"w": jnp.zeros(3)})
