"""Gradients that are sharded inside shard_map: whole norms, and one decision."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P
from small import KEY

import stabjax
from stabjax import guards

PARAMS = {"b": jnp.ones(4), "w": jnp.arange(1.0, 33.0).reshape(8, 4) / 10}
PLACES = {"b": P(), "w": P("x")}
GRADIENT = {"b": jnp.ones(4), "w": jnp.arange(32.0).reshape(8, 4)}


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))


def one_update(optimizer, gradient, mesh):
    """Return the update of shards, put together, and who refused."""

    def update(params, gradient):
        state = optimizer.init(params)
        updates, state = optimizer.update(gradient, state, params, value=jnp.float32(1))
        return updates, state.core.refused[None], state.first_bad_leaf[None]

    places = (PLACES, P("x"), P("x"))
    sharded = jax.shard_map(
        update, mesh=mesh, in_specs=(PLACES, PLACES), out_specs=places
    )
    return jax.jit(sharded)(PARAMS, gradient)


@pytest.mark.parametrize("finite_check", ["outcome", "headroom"])
def test_shards_are_clipped_by_the_norm_of_the_whole(mesh, finite_check):
    clip = guards.clip_by_global_norm(max_norm=1.0)
    options = {"axis_name": "x", "finite_check": finite_check}
    optimizer = stabjax.guard(optax.sgd(1.0), clip, **options)
    updates, refused, _ = one_update(optimizer, GRADIENT, mesh)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(GRADIENT)))
    jax.tree.map(
        lambda u, g: np.testing.assert_allclose(u, -g / norm, rtol=1e-6),
        updates,
        GRADIENT,
    )
    assert not refused.any()


def test_without_the_axis_each_shard_would_clip_by_its_own(mesh):
    optimizer = stabjax.guard(optax.sgd(1.0), guards.clip_by_global_norm(max_norm=1.0))

    def update(params, gradient):
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        return updates

    sharded = jax.shard_map(
        update, mesh=mesh, in_specs=(PLACES, PLACES), out_specs=PLACES, check_vma=False
    )
    first = jax.jit(sharded)(PARAMS, GRADIENT)["w"]
    assert np.linalg.norm(first) > 2.0


@pytest.mark.parametrize("finite_check", ["outcome", "headroom"])
def test_a_nan_on_one_shard_is_refused_on_all(mesh, finite_check):
    gradient = {**GRADIENT, "w": GRADIENT["w"].at[5, 1].set(jnp.nan)}
    optimizer = stabjax.guard(optax.adam(1.0), axis_name="x", finite_check=finite_check)
    updates, refused, leaf = one_update(optimizer, gradient, mesh)
    assert refused.tolist() == [1] * 8
    assert leaf.tolist() == [1] * 8
    assert not any(np.any(u) for u in jax.tree.leaves(updates))


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_train_step_in_shard_map_takes_one_decision(mesh, form):
    def loss(params, batch, key):
        del key
        # Each device has a part of the batch, and a part of w.
        mine = jnp.sum(params["w"] * batch) + jnp.sum(params["b"]) * jnp.mean(batch)
        return jax.lax.pmean(mine, "x"), {}

    train = stabjax.make_train_step(
        loss,
        optax.sgd(1.0),
        guards=[guards.clip_by_global_norm(max_norm=1.0)],
        axis_name="x",
        form=form,
        window=4,
    )
    batch = jnp.arange(32.0).reshape(8, 4)

    def run(params, batches):
        state = train.init(params, batches[0])
        for one in batches:
            state, row = train.step(state, one, KEY)
        core = train.guard_states(state)
        return state.params, row.floats[None], core.refused[None]

    places = (PLACES, P("x"), P("x"))
    sharded = jax.shard_map(
        run, mesh=mesh, in_specs=(PLACES, P(None, "x")), out_specs=places,
        check_vma=form == "select",
    )  # fmt: skip
    broken = batch.at[3, 2].set(jnp.nan)
    params, rows, refused = jax.jit(sharded)(PARAMS, jnp.stack([batch, broken]))
    assert refused.tolist() == [1] * 8
    np.testing.assert_array_equal(rows, np.broadcast_to(rows[0], rows.shape))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
