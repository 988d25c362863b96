"""A finite gradient whose update or state is not finite: counted, named, ended."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import rows_of
from small import KEY, regression, trained

import stabjax
from stabjax import guards, health

# keras-team/keras#11860: Adam's epsilon of 1e-8 is zero in float16, and 0 / 0 is NaN.
HALF = {"unused": jnp.zeros(3, jnp.float16), "w": jnp.full(4, 0.5, jnp.float16)}


def half_loss(params, batch, key):
    x, y = batch["x"].astype(jnp.float16), batch["y"].astype(jnp.float16)
    loss = jnp.mean((x @ params["w"] - y) ** 2)
    return loss, {"raw/fit": loss}


@pytest.mark.parametrize("form", ["branch", "select"])
def test_it_is_counted_named_and_ends_in_a_halt(form):
    given = [guards.skip_nonfinite(max_consecutive=4)]
    train, state, rows = trained(
        half_loss, optax.adam(1e-2), given, HALF, regression(8), form=form
    )
    assert not any(row["accepted"] for row in rows)
    assert [row["skip_nonfinite/streak"] for row in rows[:4]] == [1, 2, 3, 4]
    assert [row["halted"] for row in rows] == [0] * 4 + [1] * 4
    assert {train.schema(state).leaf(row) for row in rows[:4]} == {"unused"}
    assert health.names_of(rows[0]["alerts"]) == ("nonfinite_state",)
    assert "float16" in health.explain(stabjax.Alert.NONFINITE_STATE).suggestion


def test_a_guarded_optimizer_counts_it_too():
    optimizer = stabjax.guard(
        optax.adam(1e-2), guards.skip_nonfinite(max_consecutive=3)
    )
    state = optimizer.init(HALF)
    gradient = jax.grad(lambda p: half_loss(p, regression(1)[0], None)[0])(HALF)
    for _ in range(5):
        _, state = optimizer.update(gradient, state, HALF)
    assert state.core.halted
    assert (state.first_bad_leaf, state.core.guards[0].total) == (0, 3)


def test_a_moment_that_would_be_lost_names_its_parameter():
    adam = optax.scale_by_adam()

    def update(updates, state, params=None):
        updates, state = adam.update(updates, state, params)
        nu = {**state.nu, "w": jnp.where(state.count > 1, jnp.inf, state.nu["w"])}
        return updates, state._replace(nu=nu)

    odd = optax.GradientTransformation(adam.init, update)
    train = stabjax.make_train_step(half_loss, odd, finite_check="outcome")
    params = jax.tree.map(lambda x: x.astype(jnp.float32), HALF)
    state = train.init(params, regression(1)[0])
    for batch in regression(3):
        state, _ = train.step(state, batch, KEY)
    rows = rows_of(state)
    assert [row["accepted"] for row in rows] == [1, 0, 0]
    assert train.schema(state).leaf(rows[1]) == "w"


def test_a_first_step_that_is_refused_changes_no_dtype():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    # In bfloat16, which is the default, the decay 0.999 would be one.
    injected = optax.inject_hyperparams(optax.adam, hyperparam_dtype=jnp.float32)
    inner = injected(learning_rate=1e-2)
    optimizer = stabjax.guard(inner)
    state = optimizer.init(params)
    dtypes = [leaf.dtype for leaf in jax.tree.leaves(state)]
    for value in (np.nan, 1.0, 1.0):
        gradient = {"w": jnp.full(3, value, jnp.bfloat16)}
        _, state = optimizer.update(gradient, state, params)
        assert [leaf.dtype for leaf in jax.tree.leaves(state)] == dtypes
    plain = inner.init(params)
    for _ in range(2):
        _, plain = inner.update({"w": jnp.ones(3, jnp.bfloat16)}, plain, params)
    ours = optax.tree.get(state.inner_state, "mu")["w"]
    np.testing.assert_array_equal(ours, optax.tree.get(plain, "mu")["w"])
