"""A healthy run trips none of JAX's flags for NaN and infinity, in any guard."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from helpers import GUARDS, all_finite, guards_behind, quiet
from small import START, regression, squared_error, trained

import stabjax
from stabjax import transforms


# google/brax#332, pnkraemer/probdiffeq#124
@pytest.fixture(params=["jax_debug_nans", "jax_debug_infs"], autouse=True)
def flag(request):
    with jax.default_device(jax.devices("cpu")[0]):
        jax.config.update(request.param, True)
        yield
        jax.config.update(request.param, False)


def loss(params, batch, key):
    total, aux = squared_error(params, batch, key)
    return total, aux | {"valid": jnp.float32(8.0)}


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_train_step_with_every_guard_passes(form):
    every = [quiet(name) for name in sorted(GUARDS) if name != "clip_by_group_norm"]
    _, state, rows = trained(
        loss,
        optax.adamw(1e-2),
        every,
        START,
        regression(3),
        form=form,
        snapshot_every=2,
    )
    assert all(row["accepted"] for row in rows)
    chex.assert_tree_all_finite(state)


@pytest.mark.parametrize("name", guards_behind("optax"))
def test_a_guarded_optimizer_passes_op_by_op(name):
    options = {"groups": ("w",)} if name == "clip_by_group_norm" else {}
    optimizer = stabjax.guard(optax.adamw(1e-2), quiet(name, **options))
    state = optimizer.init(START)
    assert all_finite(state)
    gradient = jax.tree.map(jnp.ones_like, START)
    for _ in range(2):
        _, state = optimizer.update(gradient, state, START, value=jnp.float32(1.0))
    assert all_finite(state)


def test_the_other_faces_pass():
    gradient = jax.tree.map(jnp.ones_like, START)
    for optimizer in (
        transforms.adamw(1e-2, guards=[quiet("skip_spikes")]),
        transforms.accumulate(optax.adamw(1e-2), 2, quiet("skip_spikes")),
        transforms.clip_by_global_norm(1.0),
    ):
        state = optimizer.init(START)
        chex.assert_tree_all_finite(state)
        for _ in range(2):
            _, state = jax.jit(optimizer.update)(
                gradient, state, START, value=jnp.float32(1.0)
            )
        chex.assert_tree_all_finite(state)
