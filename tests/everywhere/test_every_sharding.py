"""Explicit meshes, and parameters sharded beside or across the batch: one decision."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from helpers import KEY, bits
from jax.sharding import AxisType, NamedSharding, reshard
from jax.sharding import PartitionSpec as P

from stabjax.guards import clip_by_global_norm, clip_by_group_norm, escalate
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices"),
]
GUARDS = [
    clip_by_global_norm(max_norm=2.0),
    clip_by_group_norm(max_norm=1.5, groups=("in",)),
    escalate(roll_back_after=2),
]
# How each layout places the two matrices, the bias and the batch.
SPECS = {
    "replicated": (P(), P(), P(), P("data")),
    "fully sharded": (P("data"), P("data"), P(), P("data")),
    "tensor parallel": (P(None, "model"), P("model"), P("model"), P("data")),
    "both": (P("data", "model"), P("model", "data"), P("model"), P("data")),
}


@functools.cache
def mesh(kind):
    return jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind, kind))


def params():
    random = np.random.default_rng(0)
    draw = lambda *shape: 0.3 * random.normal(size=shape).astype(np.float32)
    return {"bias": draw(8), "in": draw(4, 8), "out": draw(8, 4)}


def rows(step=0, *, bad=None):
    x = np.random.default_rng(step).normal(size=(8, 4)).astype(np.float32)
    if bad is not None:
        x[bad, 2] = np.nan
    return x


def placed(layout, kind):
    """Return a function of parameters and one of the batch, to their places."""
    first, second, bias, batch = SPECS[layout]
    put = lambda x, spec: jax.device_put(x, NamedSharding(mesh(kind), spec))
    specs = {"bias": bias, "in": first, "out": second}
    return lambda tree: jax.tree.map(put, tree, specs), lambda x: put(x, batch)


def loss_fn(p, x, key):
    hidden = jnp.tanh(x @ p["in"] + p["bias"][None])
    error = jnp.mean(jnp.square(hidden @ p["out"] - x))
    return error, {"raw/error": error}


def loss_of_gathered(p, x, key):
    """Return the same on an explicit mesh, where gathering is written out."""
    whole = jax.tree.map(lambda leaf: reshard(leaf, P()), p)
    error, aux = loss_fn(whole, x, key)
    return error, aux


@functools.cache
def train_of(form, kind):
    loss = loss_of_gathered if kind == AxisType.Explicit else loss_fn
    optimizer = optax.adamw(optax.linear_schedule(3e-2, 1e-2, 50), weight_decay=1e-2)
    options = {"guards": GUARDS, "form": form, "window": 8, "snapshot_every": 2}
    return make_train_step(loss, optimizer, **options)


BATCHES = [rows(0), rows(1), rows(2, bad=0), rows(3), rows(4, bad=7), *[rows(5)] * 2]


@functools.cache
def run_on_one_device(form):
    train = train_of(form, AxisType.Auto)
    state = train.init(params(), rows())
    for batch in BATCHES:
        state, _ = train.step(state, batch, KEY)
    return train.guard_states(state), jax.tree.map(np.asarray, state.params)


CASES = [
    ("branch", AxisType.Auto, "both"),
    ("branch", AxisType.Explicit, "fully sharded"),
    ("select", AxisType.Auto, "fully sharded"),
    ("select", AxisType.Explicit, "both"),
]
OTHERS = [
    (form, kind, layout)
    for form in ("branch", "select")
    for kind in (AxisType.Auto, AxisType.Explicit)
    for layout in SPECS
    if (form, kind, layout) not in CASES
]


def check_decisions(form, kind, layout):
    train, (place, place_rows) = train_of(form, kind), placed(layout, kind)
    with jax.set_mesh(mesh(kind)):
        state = train.init(place(params()), place_rows(rows()))
        specs = jax.tree.map(lambda x: x.sharding.spec, state)
        with compilations() as compiled:
            for batch in BATCHES:
                before = bits((state.params, state.opt_state))
                state, _ = train.step(state, place_rows(batch), KEY)
                if np.isnan(batch).any():
                    assert bits((state.params, state.opt_state)) == before
    assert compiled.count("jit(one)") == 1
    assert jax.tree.map(lambda x: x.sharding.spec, state) == specs
    for leaf in jax.tree.leaves(state.core):
        held = {np.asarray(shard.data).tobytes() for shard in leaf.addressable_shards}
        assert len(leaf.addressable_shards) == 8
        assert len(held) == 1
    core, expected = run_on_one_device(form)
    ours = train.guard_states(state)
    assert (ours.applied, ours.refused) == (core.applied, core.refused) == (5, 2)
    for name, leaf in expected.items():
        np.testing.assert_allclose(state.params[name], leaf, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("form", "kind", "layout"), CASES)
def test_the_decisions_are_those_of_one_device(form, kind, layout):
    check_decisions(form, kind, layout)


@pytest.mark.slow
@pytest.mark.parametrize(("form", "kind", "layout"), OTHERS)
def test_the_decisions_are_also_those_of_one_device(form, kind, layout):
    check_decisions(form, kind, layout)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_guard_keeps_the_shardings_of_updates_and_state(kind):
    place, _ = placed("both", kind)
    optimizer = guard(optax.adam(1e-2), clip_by_global_norm(max_norm=1.0))
    with jax.set_mesh(mesh(kind)):
        tree = place(params())
        state = optimizer.init(tree)
        update = jax.jit(optimizer.update)
        updates, state = update(tree, state, tree)
        before = bits(state.inner_state)
        broken = params()
        broken["out"][7, 3] = np.nan
        broken = place(broken)
        nothing, state = update(broken, state, tree)
    assert bits(state.inner_state) == before
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(nothing))
    assert state.core.refused == 1
    for name, leaf in tree.items():
        assert updates[name].sharding.is_equivalent_to(leaf.sharding, leaf.ndim)
        moment = state.inner_state[0].nu[name]
        assert moment.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


def test_a_rollback_returns_every_shard():
    train = train_of("select", AxisType.Auto)
    place, place_rows = placed("both", AxisType.Auto)
    state = train.init(place(params()), place_rows(rows()))

    def stepped(state, batch):
        # Several steps in flight can starve eight devices on two busy cores.
        return jax.block_until_ready(train.step(state, place_rows(batch), KEY)[0])

    for step in range(2):
        state = stepped(state, rows(step))
    expected = bits((state.params, state.opt_state))
    state = stepped(state, rows(2))
    for _ in range(3):
        state = stepped(state, rows(3, bad=4))
    assert train.guard_states(state).rollbacks == 1
    assert bits((state.params, state.opt_state)) == expected
