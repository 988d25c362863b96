"""Dropping bad samples in ensembles and over devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P
from samples import (
    BATCH,
    DAMAGE,
    KEY,
    PARAMS,
    SIZE,
    broken,
    differentiate,
    exact,
    loss_fn,
    of_batch,
    stateful,
    vector_of,
)

from stabjax.loss_transforms import drop_bad_samples


def test_each_member_of_an_ensemble_drops_its_own():
    gradient_of = jax.value_and_grad(drop_bad_samples(loss_fn), has_aux=True)
    damages = [{}, {3: "nan input"}, {0: "nan gradient", 7: "inf input"}]
    scales = jnp.asarray([1.0, 0.5, 2.0])
    members = jax.tree.map(lambda leaf: jax.vmap(lambda s: s * leaf)(scales), PARAMS)
    batches = jax.tree.map(lambda *x: jnp.stack(x), *[broken(d) for d in damages])
    keys = jax.random.split(jax.random.clone(KEY), 3)
    (_, aux), gradients = jax.jit(jax.vmap(gradient_of))(members, batches, keys)
    assert aux["dropped_samples"].tolist() == [0.0, 1.0, 2.0]
    for index, damage in enumerate(damages):
        member, gradient = (
            jax.tree.map(lambda leaf, i=index: leaf[i], tree)
            for tree in (members, gradients)
        )
        _, slope = exact(member, BATCH, np.setdiff1d(np.arange(SIZE), list(damage)))
        np.testing.assert_allclose(vector_of(gradient), slope, rtol=1e-5, atol=1e-5)


def test_while_all_members_are_healthy_no_member_runs_the_second_pass():
    computed = []

    def counted(params, sample, key):
        jax.debug.callback(computed.append, sample["label"])
        return loss_fn(params, sample, key)

    gradient_of = jax.grad(drop_bad_samples(counted), has_aux=True)
    mapped = jax.jit(jax.vmap(gradient_of, in_axes=(0, None, None)))
    members = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf]), PARAMS)
    jax.block_until_ready(mapped(members, broken({}), None))
    jax.effects_barrier()
    healthy = len(computed)
    assert healthy in (SIZE, 2 * SIZE)
    jax.block_until_ready(mapped(members, broken({2: "nan input"}), None))
    jax.effects_barrier()
    assert len(computed) >= 3 * healthy


needs_eight = pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")


@needs_eight
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("name", ["per sample", "batched", "stateful"])
def test_samples_spread_over_devices_are_those_of_one(kind, name):
    inner = {"per sample": loss_fn, "batched": of_batch, "stateful": stateful}[name]
    transformed = drop_bad_samples(inner, batched=name == "batched")
    old = {"mean": jnp.ones(2), "best": jnp.float32(jnp.inf), "seen": jnp.int32(7)}
    kwargs = {"model_state": old} if name == "stateful" else {}
    batch = jax.tree.map(lambda leaf: leaf[:8], broken(DAMAGE))
    expected, report, wanted = differentiate(transformed, batch, **kwargs)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        spread = jax.device_put(batch, NamedSharding(mesh, P("data")))
        params = jax.device_put(PARAMS, NamedSharding(mesh, P()))
        kwargs = jax.device_put(kwargs, NamedSharding(mesh, P()))
        loss, aux, gradient = differentiate(transformed, spread, params, **kwargs)
    assert float(aux["dropped_samples"]) == (3.0 if kwargs else 2.0)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), aux, report)
    np.testing.assert_allclose(float(loss), float(expected), rtol=1e-6)
    np.testing.assert_allclose(vector_of(gradient), vector_of(wanted), rtol=1e-5)


@needs_eight
@pytest.mark.parametrize("check", [True, False])
def test_in_shard_map_every_device_drops_its_own(check):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    transformed = drop_bad_samples(loss_fn)
    batch = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf[:4]]), broken(DAMAGE))
    bad = [3, 5, 15]

    def local(params, batch):
        if not check:
            gradient, aux = jax.grad(transformed, has_aux=True)(params, batch, None)
            return jax.lax.pmean(gradient, "data"), jax.lax.psum(aux, "data")

        def loss(params):
            loss, aux = transformed(params, batch, None)
            return jax.lax.pmean(loss, "data"), aux

        gradient, aux = jax.grad(loss, has_aux=True)(params)
        return gradient, jax.lax.psum(aux, "data")

    specs = {"in_specs": (P(), P("data")), "out_specs": P()}
    step = jax.jit(jax.shard_map(local, mesh=mesh, check_vma=check, **specs))
    gradient, aux = step(PARAMS, batch)
    assert float(aux["dropped_samples"]) == 3.0
    whole = jax.tree.map(np.asarray, broken({}))
    whole = jax.tree.map(lambda leaf: np.concatenate([leaf, leaf[:4]]), whole)
    pairs = [np.setdiff1d([i, i + 1], bad) for i in range(0, 16, 2)]
    wanted = np.mean([exact(PARAMS, whole, pair)[1] for pair in pairs], axis=0)
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-5)
