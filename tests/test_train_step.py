"""The train step as a user meets it: arguments, errors, keys, state."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from helpers import (
    KEY,
    adamw,
    batch_of,
    bits,
    copied,
    gradient_with,
    model_state,
    params_of,
    rows_of,
    stateful_loss,
    stateless_loss,
)

from stabjax.train_step import make_train_step

make = inspect.unwrap(make_train_step)


@pytest.fixture(scope="module", params=["branch", "select"])
def train(request):
    return make_train_step(stateful_loss, adamw(), form=request.param, window=8)


def start(train):
    return train.init(params_of(), batch_of(), model_state=model_state())


def test_a_refused_step_leaves_the_model_state_and_an_applied_one_renews_it(train):
    state, _ = train.step(start(train), batch_of(1), KEY)
    assert state.model_state["seen"] == 1
    assert np.isinf(state.model_state["best"])
    before = bits(state.model_state)
    for fault in ({"state": np.nan}, {"gradient": gradient_with(np.inf)}):
        state, _ = train.step(state, batch_of(2, **fault), KEY)
        assert bits(state.model_state) == before
    state, _ = train.step(state, batch_of(2), KEY)
    assert state.model_state["seen"] == 2


def test_a_nan_metric_is_logged_and_refuses_nothing():
    loss = lambda p, b, k: (jnp.sum(p["w"] ** 2), {"ratio": b / 0.0 * 0.0})
    train = make_train_step(loss, optax.sgd(0.1))
    state = train.init({"w": jnp.ones(2)}, jnp.ones(()))
    state, _ = train.step(state, jnp.ones(()), KEY)
    row = rows_of(state)[0]
    assert np.isnan(row["ratio"])
    assert row["accepted"] == 1


def test_each_attempt_has_a_key_of_its_own_also_after_a_refusal():
    def loss(params, batch, key):
        noise = jax.random.uniform(key)
        return jnp.sum(params["w"]) * batch, {"noise": noise}

    train = make_train_step(loss, optax.sgd(0.1), window=9)
    state = train.init({"w": jnp.ones(2)}, jnp.ones(()))
    for value in (1.0, np.nan, 1.0):
        state, _ = train.step(state, jnp.asarray(value, jnp.float32), KEY)
    many = jnp.asarray([1.0, np.nan, 1.0], jnp.float32)
    state, _ = train.many_steps(state, many, KEY)
    noise = [row["noise"] for row in rows_of(state)]
    exact = [jax.random.uniform(jax.random.fold_in(KEY, i)) for i in range(6)]
    np.testing.assert_array_equal(np.float32(noise), np.asarray(exact))


def test_a_loss_may_ask_for_the_step():
    def loss(params, batch, key, *, step):
        return jnp.sum(params["w"]) * batch * step, {}

    loss.wants_step = True
    train = make_train_step(loss, optax.sgd(1.0))
    state = train.init({"w": jnp.zeros(())}, jnp.ones(()))
    for _ in range(3):
        state, _ = train.step(state, jnp.ones(()), KEY)
    assert state.params["w"] == -(0 + 1 + 2)


def test_apply_gradients_is_the_step_after_the_gradient(train):
    state = start(train)
    graded = jax.value_and_grad(stateful_loss, has_aux=True)
    (loss, aux), g = graded(
        state.params, batch_of(3), KEY, model_state=state.model_state
    )
    by_hand, _ = jax.jit(train.apply_gradients)(state, loss, aux, g)
    whole, _ = train.step(copied(state), batch_of(3), KEY)
    for a, b in zip(jax.tree.leaves(by_hand), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_a_bfloat16_model_with_a_bfloat16_loss_trains():
    def loss(params, batch, key):
        value, aux = stateless_loss(params, batch, key)
        return value.astype(jnp.bfloat16), aux

    train = make_train_step(loss, adamw())
    state = train.init(params_of(jnp.bfloat16), batch_of())
    for step in range(3):
        state, _ = train.step(state, batch_of(step), KEY)
    assert state.params["core"]["kernel"].dtype == jnp.bfloat16
    assert train.guard_states(state).applied == 3


@pytest.mark.parametrize("form", ["branch", "select"])
def test_odd_trees_of_parameters_train(form):
    params = {"none": None, "empty": jnp.zeros((0, 3)), "z": jnp.asarray([1.0 + 2.0j])}
    loss = lambda p, b, k: (jnp.sum(jnp.abs(p["z"] * b) ** 2), {})
    train = make_train_step(loss, optax.sgd(0.1), form=form)
    state = train.init(params, jnp.ones(()))
    state, _ = train.step(state, jnp.ones(()), KEY)
    before = bits(state.params)
    assert train.guard_states(state).applied == 1
    state, _ = train.step(state, jnp.asarray(np.inf, jnp.float32), KEY)
    assert bits(state.params) == before


def test_an_optimizer_with_random_keys_in_its_state_trains():
    noisy = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.sgd(0.1))
    loss = lambda p, b, k: (jnp.sum(p["w"] ** 2) * b, {})
    train = make_train_step(loss, noisy)
    state = train.init({"w": jnp.ones(2)}, jnp.ones(()))
    with jax.debug_key_reuse(False):  # A refused step gives its key back, unused.
        for value in (1.0, np.nan, 1.0):
            state, _ = train.step(state, jnp.asarray(value, jnp.float32), KEY)
    assert train.guard_states(state).applied == 2


def test_init_works_in_jit_vmap_and_eval_shape(train):
    init = lambda p: train.init(p, batch_of(), model_state=model_state())
    described = lambda t: [(x.shape, x.dtype) for x in jax.tree.leaves(t)]
    plain = init(params_of())
    assert bits(jax.jit(init)(params_of())) == bits(plain)
    assert described(jax.eval_shape(init, params_of())) == described(plain)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), params_of())
    lane = jax.tree.map(lambda x: x[1], jax.vmap(init)(two))
    assert bits(lane) == bits(plain)


def test_the_schema_is_static_and_names_every_column(train):
    state = start(train)
    schema = train.schema(state)
    assert len(schema.floats) == state.telemetry.floats.shape[1]
    assert len(schema.ints) == state.telemetry.ints.shape[1]
    assert schema.leaves == ("core/bias", "core/kernel", "head/out")
    assert schema.components == ("raw/extra", "raw/task", "weighted/task")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0}, "window must be >= 1, got 0"),
        ({"window": 2.5}, "window must be >= 1, got 2.5"),
        ({"snapshot_every": 0}, "snapshot_every must be >= 1, got 0"),
        ({"finite_check": "all"}, "finite_check must be 'outcome', 'headroom' or None"),
        ({"form": "where"}, "form must be 'branch', 'select' or None, got 'where'"),
    ],
)
def test_an_argument_out_of_range_is_refused_when_the_step_is_made(options, message):
    with pytest.raises(ValueError, match=f"^make_train_step: {message}"):
        make(stateless_loss, adamw(), **options)


@pytest.mark.parametrize(
    ("loss", "given", "message"),
    [
        (
            lambda p, b, k: (p["w"][0], {"m": p["w"]}),
            None,
            r"aux\['m'\] must be a scal",
        ),
        (
            lambda p, b, k: (p["w"][0], {"model_state": 0.0}),
            None,
            "only one of the two",
        ),
    ],
)
def test_a_loss_of_the_wrong_kind_is_refused_at_init(loss, given, message):
    train = make_train_step(loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match=message):
        train.init({"w": jnp.ones(2)}, jnp.ones(()), model_state=given)


def test_a_model_state_that_the_loss_does_not_return_is_refused_at_init():
    def loss(params, batch, key, *, model_state):
        return params["w"][0], {}

    train = make_train_step(loss, optax.sgd(0.1))
    with pytest.raises(ValueError, match="only one of the two was given"):
        train.init({"w": jnp.ones(2)}, jnp.ones(()), model_state=jnp.zeros(()))


def test_the_step_is_compiled_under_the_name_that_the_tests_look_for():
    train = make_train_step(lambda p, b, k: (p**2 * b, {}), optax.sgd(0.1), window=3)
    state = train.init(jnp.float32(1.0), jnp.float32(1.0))
    with compilations() as compiled:
        train.step(state, jnp.float32(1.0), jax.random.key(0))
    assert compiled.count("jit(one)") == 1
