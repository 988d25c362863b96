"""Models of every library train, refuse what is broken, and roll back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from flax import linen, nnx
from flax.training.train_state import TrainState
from framework_models import (
    MODELS,
    batch,
    counting_in_equinox,
    counting_in_nnx,
    model,
)
from helpers import KEY, rows_of

from stabjax.guards import clip_by_global_norm, escalate, skip_nonfinite, skip_spikes
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

# The selecting form asks no more of a tree: it is run where there is time.
FORMS = ["branch", pytest.param("select", marks=pytest.mark.slow)]
GUARDS = [
    clip_by_global_norm(max_norm=10.0),
    escalate(roll_back_after=2, max_rollbacks=2),
]


@pytest.fixture(params=MODELS)
def name(request):
    if request.param.startswith("equinox"):
        pytest.importorskip("equinox")
    return request.param


@functools.cache
def train_of(name, form):
    loss_fn = model(name).loss_fn
    options = {"guards": GUARDS, "form": form, "window": 32, "snapshot_every": 2}
    return make_train_step(loss_fn, optax.adam(0.03), **options)


def start(name, form):
    given = model(name)
    return train_of(name, form).init(given.params, batch(0), model_state=given.state)


def run(train, state, batches):
    for each in batches:
        state, _ = train.step(state, each, KEY)
    return state


def bits(*trees):
    """Return the leaves as raw bytes, random keys among them."""
    leaves = jax.tree.leaves(trees)
    typed = lambda x: jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    plain = [jax.random.key_data(x) if typed(x) else x for x in leaves]
    return [(str(x.dtype), x.shape, np.asarray(x).tobytes()) for x in plain]


def held(state):
    return bits(state.params, state.opt_state, state.model_state)


@pytest.fixture(autouse=True)
def keys_may_be_given_back():
    """A refused step gives the keys in a model state back, unused."""
    with jax.debug_key_reuse(False):
        yield


@pytest.mark.parametrize("form", FORMS)
def test_it_trains_in_one_program_and_keeps_its_kind_of_tree(name, form):
    train, state = train_of(name, form), start(name, form)
    with compilations() as compiled:
        state = run(train, state, [batch(step) for step in range(30)])
    assert compiled.count("jit(one)") <= 1  # none where another test came first
    losses = [row["loss"] for row in rows_of(state)]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert train.guard_states(state).applied == 30
    assert jax.tree.structure(state.params) == jax.tree.structure(model(name).params)


@pytest.mark.parametrize("form", FORMS)
def test_a_nan_batch_is_refused_with_every_bit_in_place(name, form):
    train = train_of(name, form)
    state = run(train, start(name, form), [batch(0)])
    before = held(state)
    state = run(train, state, [batch(1, bad=True)])
    assert held(state) == before
    state = run(train, state, [batch(2)])
    assert held(state) != before
    core = train.guard_states(state)
    assert (core.applied, core.refused) == (2, 1)


@pytest.mark.parametrize("form", FORMS)
def test_it_rolls_back_to_the_bits_of_the_snapshot(name, form):
    train = train_of(name, form)
    state = run(train, start(name, form), [batch(0), batch(1)])
    expected = held(state)
    state = run(train, state, [batch(2), *[batch(3, bad=True)] * 3])
    assert train.guard_states(state).rollbacks == 1
    assert held(state) == expected


def test_the_leaves_have_names_that_a_person_can_read(name):
    leaves = start(name, "branch").telemetry.schema.leaves
    assert len(set(leaves)) == len(leaves)
    # The index in a list of layers, or the name of the layer.
    expected = {
        "equinox": "layers/0/weight",
        "equinox with state": "layers/0/weight",
        "flax.linen": "Dense_0/kernel",
        "flax.nnx": "hidden/kernel/value",
        "haiku style": "mlp/~/linear_0/w",
    }
    assert expected[name] in leaves


def test_guard_wraps_an_optimizer_over_its_tree(name):
    given = model(name)
    optimizer = guard(optax.adam(0.03), clip_by_global_norm(max_norm=10.0))
    kwargs = {} if given.state is None else {"model_state": given.state}

    @jax.jit
    def step(params, state, batch):
        loss = lambda p: given.loss_fn(p, batch, KEY, **kwargs)
        (value, _), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state, params, value=value)
        return optax.apply_updates(params, updates), state

    params, state = step(given.params, optimizer.init(given.params), batch(0))
    before = bits(params, state.inner_state)
    params, state = step(params, state, batch(1, bad=True))
    assert bits(params, state.inner_state) == before
    params, state = step(params, state, batch(2))
    assert (state.core.applied, state.core.refused) == (2, 1)


@pytest.mark.parametrize("make", [counting_in_equinox, counting_in_nnx])
def test_a_model_state_that_its_library_changes_in_place_needs_no_copy_by_hand(make):
    if make is counting_in_equinox:
        pytest.importorskip("equinox")
    given = make()
    train = make_train_step(given.loss_fn, optax.sgd(0.1))
    state = train.init(given.params, batch(0), model_state=given.state)
    state = run(train, state, [batch(0), batch(1)])
    assert jax.tree.leaves(state.model_state)[0] == 2


def test_nnx_optimizer_passes_the_loss_on_and_refuses_in_place():
    net = nnx.Linear(3, 1, rngs=nnx.Rngs(0))
    guarded = guard(optax.adamw(0.1), skip_spikes())
    optimizer = nnx.Optimizer(net, guarded, wrt=nnx.Param)

    @nnx.jit
    def step(net, optimizer, batch):
        error = lambda net: jnp.mean((net(batch["x"]) - batch["y"]) ** 2)
        loss, gradients = nnx.value_and_grad(error)(net)
        optimizer.update(net, gradients, value=loss)
        return loss

    losses = [step(net, optimizer, batch(index)) for index in range(10)]
    assert losses[-1] < 0.5 * losses[0]
    before = bits(nnx.state(net), optimizer.opt_state.inner_state)
    assert np.isnan(step(net, optimizer, batch(3, bad=True)))
    assert bits(nnx.state(net), optimizer.opt_state.inner_state) == before
    assert optimizer.opt_state.core.refused[...] == 1


def test_a_linen_train_state_needs_no_loss_as_long_as_no_guard_reads_it():
    net = linen.Dense(1)
    params = net.init(jax.random.key(0), jnp.ones((8, 3)))["params"]
    optimizer = guard(optax.adam(0.1), clip_by_global_norm(), skip_nonfinite())
    state = TrainState.create(apply_fn=net.apply, params=params, tx=optimizer)

    @jax.jit
    def step(state, batch):
        predict = lambda p: state.apply_fn({"params": p}, batch["x"])
        error = lambda p: jnp.mean((predict(p) - batch["y"]) ** 2)
        # Its `apply_gradients` hands no loss on to the optimizer.
        return state.apply_gradients(grads=jax.grad(error)(state.params))

    state = step(state, batch(0))
    before = bits(state.params, state.opt_state.inner_state)
    state = step(state, batch(1, bad=True))
    assert bits(state.params, state.opt_state.inner_state) == before
    assert state.opt_state.core.refused == 1
