"""Guarded steps under the transformations of jax, each element deciding for itself.

In `shard_map` a step decides on what it is given. Let the loss be the mean over the
mesh axis: the gradient of replicated parameters is then summed over it by jax, every
device measures the same, and there is one decision. A gradient that was not summed
gives each device a decision of its own, which jax refuses to call replicated.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import (
    FACES,
    KEY,
    adamw,
    batch_of,
    bits,
    copied,
    gradient_with,
    optax_face,
    params_of,
    run,
    stack,
    train_face,
)
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from stabjax.guards import back_off, clip_by_global_norm, skip_nonfinite
from stabjax.train_step import make_train_step
from stabjax.transforms import guard

GUARDS = [clip_by_global_norm(max_norm=0.5), back_off()]
NAN = batch_of(1, gradient=gradient_with(np.nan))


@functools.cache
def face_of(form):
    return optax_face(GUARDS) if form == "optax" else train_face(GUARDS, form)


def lane(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


@pytest.mark.parametrize("form", FACES)
def test_each_member_of_an_ensemble_decides_for_itself(form):
    face = face_of(form)
    starts = [jax.tree.map(lambda p, i=i: p * (1 + i), params_of()) for i in range(3)]
    members = jax.tree.map(lambda *xs: jnp.stack(xs), *map(face.init, starts))
    step = jax.jit(jax.vmap(face.step))
    members = step(members, stack([batch_of(i) for i in range(3)]))
    before = [bits(face.held(lane(members, i))) for i in range(3)]
    members = step(members, stack([batch_of(3), NAN, batch_of(5)]))
    after = [bits(face.held(lane(members, i))) for i in range(3)]
    assert [a == b for a, b in zip(after, before, strict=True)] == [False, True, False]
    refused = [int(face.core(lane(members, i)).refused) for i in range(3)]
    assert refused == [0, 1, 0]
    for i, batches in enumerate([[0, 3], None, [2, 5]]):
        if batches is None:
            continue
        alone = run(face, map(batch_of, batches), face.init(starts[i]))
        for ours, one in zip(
            jax.tree.leaves(face.held(lane(members, i)).params),
            jax.tree.leaves(face.held(alone).params),
            strict=True,
        ):
            np.testing.assert_allclose(ours, one, rtol=2e-6)


@pytest.mark.parametrize("form", FACES)
def test_a_loop_that_ends_by_what_the_guards_say_runs_on_the_device(form):
    face = face_of(form)

    def until_refused(state):
        def broken(index):
            at_two = jnp.where(index == 2, jnp.nan, 0.0).astype(jnp.float32)
            return jax.tree.map(jnp.asarray, batch_of(0)) | {"loss": at_two}

        def body(carry):
            state, index = carry
            return face.step(state, broken(index)), index + 1

        go_on = lambda carry: (face.core(carry[0]).refused == 0) & (carry[1] < 9)
        return jax.lax.while_loop(go_on, body, (state, jnp.int32(0)))

    state, steps = jax.jit(until_refused)(face.init(params_of()))
    assert steps == 3
    assert (face.core(state).applied, face.core(state).refused) == (2, 1)


def layers():
    random = np.random.default_rng(0)
    return {"layers": jnp.asarray(random.normal(size=(3, 4, 4)).astype(np.float32))}


def deep_loss(wrap):
    """Return the loss of three layers in a scan, each wrapped."""

    def loss(params, batch, key):
        def layer(x, weights):
            return jnp.tanh(x @ weights), None

        out, _ = jax.lax.scan(wrap(layer), batch, params["layers"])
        error = jnp.mean(jnp.square(out - 0.5))
        return error, {"raw/error": error}

    return loss


def test_scanned_and_rematerialized_layers_train_to_the_same_parameters():
    rows = np.random.default_rng(1).normal(size=(5, 8, 4)).astype(np.float32)
    rows[2, 3, 1] = np.inf
    ends = []
    for wrap in (lambda layer: layer, jax.checkpoint):
        train = make_train_step(deep_loss(wrap), adamw(), guards=GUARDS, form="select")
        state, _ = train.many_steps(train.init(layers(), rows[0]), rows, KEY)
        assert train.guard_states(state).refused == 1
        ends.append(state.params["layers"])
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-5)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_nan_behind_a_mask_in_the_loss_refuses_nothing(form):
    def loss(params, batch, key):
        # The two wheres of a safe logarithm: the masked elements are never used.
        masked = jnp.where(batch > 0, batch, 1.0)
        logs = jnp.where(batch > 0, jnp.log(masked), 0.0)
        hidden = jnp.log(batch)
        value = jnp.sum(params["w"] * logs)
        return value, {"hidden": jnp.sum(hidden), "raw/value": value}

    train = make_train_step(loss, optax.sgd(0.1), guards=[skip_nonfinite()], form=form)
    batch = jnp.asarray([1.0, -1.0, 2.0])
    state = train.init({"w": jnp.ones(3)}, batch)
    state, row = train.step(state, batch, KEY)
    assert train.guard_states(state).applied == 1
    schema = train.schema(state)
    assert np.isnan(row.floats[schema.floats.index("hidden")])


@functools.cache
def mesh():
    return jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))


def rows(*, bad=None):
    """Return sixteen examples, two for each device; one element of ``bad`` is NaN."""
    x = np.random.default_rng(7).normal(size=(16, 3)).astype(np.float32)
    if bad is not None:
        x[bad, 1] = np.nan
    return x


def mean_loss(params, batch, key, *, model_state):
    del key
    error = jnp.mean(jnp.square(batch @ params["w"] - 1.0))
    error = jax.lax.pmean(error, "data")
    new = {"mean": jax.lax.pmean(jnp.mean(batch, axis=0), "data")}
    return error, {"raw/error": error, "model_state": new}


def replicas(tree):
    """Return for each leaf the set of what the devices hold."""
    return [
        {np.asarray(s.data).tobytes() for s in leaf.addressable_shards}
        for leaf in jax.tree.leaves(tree)
    ]


needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


def run_on_one_device(form, batches):
    loss = lambda p, b, k: (jnp.mean(jnp.square(b @ p["w"] - 1.0)), {})
    train = make_train_step(loss, adamw(), guards=GUARDS, form=form)
    state = train.init({"w": jnp.ones((3,), jnp.float32)}, batches[0])
    for batch in batches:
        state, _ = train.step(state, batch, KEY)
    return state


@needs_eight
@pytest.mark.parametrize("form", ["branch", "select"])
def test_in_shard_map_a_nan_on_one_device_is_refused_on_all(form):
    train = make_train_step(mean_loss, adamw(), guards=GUARDS, form=form, window=4)
    in_mesh = functools.partial(jax.shard_map, mesh=mesh(), out_specs=P())
    mean = np.zeros((3,), np.float32)
    start = lambda p, b: train.init(p, b, model_state={"mean": mean})
    take = lambda state, batch: train.step(state, batch, KEY)[0]
    step = jax.jit(in_mesh(take, in_specs=(P(), P("data"))))
    # The mean over the axis is known inside only, so the state is made there as well.
    params = {"w": jnp.ones((3,), jnp.float32)}
    state = jax.jit(in_mesh(start, in_specs=(P(), P("data"))))(params, rows())
    state = step(state, rows())
    before = bits((state.params, state.opt_state, state.model_state))
    for bad in (0, 9):
        state = step(state, rows(bad=bad))
        assert bits((state.params, state.opt_state, state.model_state)) == before
    state = step(state, rows())
    core = train.guard_states(state)
    assert (core.applied, core.refused) == (2, 2)
    assert all(len(held) == 1 for held in replicas(state))
    alone = run_on_one_device(form, [rows(), rows(bad=0), rows(bad=9), rows()])
    np.testing.assert_allclose(state.params["w"], alone.params["w"], rtol=1e-5)


@needs_eight
def test_guard_in_shard_map_judges_the_summed_gradient_on_every_device():
    optimizer = guard(adamw(), clip_by_global_norm(max_norm=0.5))

    def step(params, state, batch):
        error = lambda p: jax.lax.pmean(jnp.mean((batch @ p["w"] - 1) ** 2), "data")
        loss, gradients = jax.value_and_grad(error)(params)
        updates, state = optimizer.update(gradients, state, params, value=loss)
        return optax.apply_updates(params, updates), state

    specs = {"in_specs": (P(), P(), P("data")), "out_specs": P()}
    step = jax.jit(jax.shard_map(step, mesh=mesh(), **specs))
    params = {"w": jnp.ones((3,), jnp.float32)}
    params, state = step(params, optimizer.init(params), rows())
    before = bits((params, state.inner_state))
    params, state = step(params, state, rows(bad=13))
    assert bits((params, state.inner_state)) == before
    assert state.core.refused == 1
    assert all(len(held) == 1 for held in replicas((params, state)))


@needs_eight
def test_a_gradient_that_was_not_summed_cannot_pass_for_replicated():
    optimizer = guard(optax.sgd(0.1))

    def step(params, batch):
        local = jax.lax.pcast(params, "data", to="varying")
        gradients = jax.grad(lambda p: jnp.mean((batch @ p["w"] - 1) ** 2))(local)
        updates, state = optimizer.update(gradients, optimizer.init(params), params)
        return optax.apply_updates(params, updates), state.core.refused

    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    params = {"w": jnp.ones((3,), jnp.float32)}
    with pytest.raises(ValueError, match="out_specs"):
        jax.eval_shape(jax.shard_map(step, mesh=mesh(), **specs), params, rows())


def test_a_train_state_passes_through_jit_of_scan_of_many_steps():
    train = make_train_step(deep_loss(jax.checkpoint), adamw(), guards=GUARDS)
    rows = np.random.default_rng(1).normal(size=(2, 3, 8, 4)).astype(np.float32)
    start = lambda: train.init(layers(), rows[0, 0])
    epochs = lambda s, e: jax.lax.scan(lambda s, b: train.many_steps(s, b, KEY), s, e)
    together, _ = jax.jit(epochs)(start(), rows)
    state = start()
    for batch in rows.reshape(6, 8, 4):
        state, _ = train.step(state, batch, KEY)
    assert bits(copied(together.params)) == bits(state.params)
