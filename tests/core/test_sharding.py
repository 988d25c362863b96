"""Parameters sharded over eight devices: one decision, few collectives, same bits."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from stabjax.guards import clip_by_global_norm, skip_nonfinite, skip_spikes
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

KEY = jax.random.key(0)
GUARDS = [clip_by_global_norm(), skip_nonfinite(), skip_spikes()]
COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|"
    r"collective-broadcast)(?:-start)?\("
)
pytestmark = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


@functools.cache
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def place(tree):
    return jax.device_put(tree, NamedSharding(mesh(), P("data")))


def params():
    kernel = jnp.linspace(-1.0, 1.0, 64, dtype=jnp.float32).reshape(16, 4)
    return place({"kernel": kernel, "bias": jnp.zeros((8,), jnp.float32)})


def loss_fn(p, batch, key):
    del key
    return jnp.mean((batch @ p["kernel"]) ** 2) + jnp.sum((p["bias"] - 1.0) ** 2), {}


def batch(value=1.0, *, bad_row=None):
    rows = np.full((8, 16), value, np.float32)
    rows[:, ::2] *= -0.5
    if bad_row is not None:
        rows[bad_row, 3] = np.nan
    return place(rows)


def collectives(function, *arguments):
    text = jax.jit(function).lower(*arguments).compile().as_text()
    return len(COLLECTIVE.findall(text))


def optax_step(optimizer):
    def step(p, state, gradients):
        updates, state = optimizer.update(gradients, state, p, value=jnp.float32(1))
        return optax.apply_updates(p, updates), state

    return step


@functools.cache
def collectives_of_optax():
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    clipped = optax.with_extra_args_support(clipped)
    p = params()
    return collectives(optax_step(clipped), p, clipped.init(p), p)


@functools.cache
def train_of(form):
    options = {"guards": GUARDS, "form": form, "window": 8}
    return make_train_step(loss_fn, optax.adamw(1e-2), **options)


def collectives_of_train_step(form):
    state = train_of(form).init(params(), batch())
    apply = lambda s, g: train_of(form).apply_gradients(s, jnp.float32(1), {}, g)[0]
    return collectives(apply, state, params())


def test_select_needs_no_more_collectives_than_clipping_in_optax():
    assert collectives_of_optax() == 1
    assert collectives_of_train_step("select") == 1


def test_branch_needs_no_more_collectives_than_clipping_in_optax():
    assert collectives_of_train_step("branch") <= collectives_of_optax()


def collectives_of_guard(**options):
    optimizer, p = guard(optax.adamw(1e-3), *GUARDS, **options), params()
    return collectives(optax_step(optimizer), p, optimizer.init(p), p)


def test_guard_needs_one_exchange_before_and_one_after_the_update():
    assert collectives_of_guard() == 2


def test_guard_with_headroom_needs_no_more_collectives_than_clipping_in_optax():
    options = {"finite_check": "headroom", "measure_updates": False}
    assert collectives_of_guard(**options) <= collectives_of_optax()


def shards(tree):
    """Return the bytes that each device holds of each leaf."""
    leaves = jax.tree.leaves(tree)
    return [
        [np.asarray(s.data).tobytes() for s in x.addressable_shards] for x in leaves
    ]


@pytest.fixture(scope="module", params=["branch", "select"])
def train(request):
    return train_of(request.param)


def test_a_nan_on_one_shard_is_refused_on_all_with_the_same_bits(train):
    state, _ = train.step(train.init(params(), batch()), batch(), KEY)
    for row in (0, 5):
        before = shards((state.params, state.opt_state))
        state, _ = train.step(state, batch(bad_row=row), KEY)
        assert shards((state.params, state.opt_state)) == before
        for replicas in shards(state.core):
            assert len(replicas) == 8
            assert len(set(replicas)) == 1
    assert train.guard_states(state).refused == 2


def test_a_nan_in_the_gradient_of_one_shard_alone_is_refused_on_all(train):
    apply = jax.jit(train.apply_gradients)
    state = train.init(params(), batch())
    before = shards(state.params)
    gradients = {"kernel": np.ones((16, 4), np.float32), "bias": np.ones(8, np.float32)}
    gradients["bias"][7] = np.nan
    state, _ = apply(state, jnp.float32(1), {}, place(gradients))
    assert shards(state.params) == before


def test_the_run_on_eight_devices_is_that_on_one(train):
    one = jax.devices()[0]
    alone = jax.device_put(params(), one)
    sharded, single = train.init(params(), batch()), train.init(alone, np.ones((8, 16)))
    for value in (1.0, 2.0, np.nan, 3.0):
        sharded, _ = train.step(sharded, batch(value), KEY)
        single, _ = train.step(single, jax.device_put(batch(value), one), KEY)
    for a, b in zip(
        jax.tree.leaves(sharded.params), jax.tree.leaves(single.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_sharded_step_keeps_its_shardings_and_is_compiled_once():
    train = make_train_step(loss_fn, optax.adamw(1e-2), guards=GUARDS, window=8)
    rows = batch()
    state, _ = train.step(train.init(params(), rows), rows, KEY)
    with compilations() as compiled:
        for _ in range(2):
            state, _ = train.step(state, rows, KEY)
    assert not compiled
    assert state.params["kernel"].sharding.spec == P("data")
    assert state.opt_state[0].mu["kernel"].sharding.spec == P("data")
