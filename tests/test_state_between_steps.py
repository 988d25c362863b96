"""What is done to a state between steps: audit it, keep it on the host, go back."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, batch_of, bits, model_state, params_of, rows_of, stateful_loss

from stabjax.guards import skip_nonfinite
from stabjax.train_step import make_train_step
from stabjax.train_step.audit import describe, new_damage


@pytest.fixture(scope="module")
def train():
    guards = [skip_nonfinite(max_consecutive=2, on_exhausted="roll_back")]
    return make_train_step(
        stateful_loss, optax.adam(0.1), guards=guards, snapshot_memory="pinned_host"
    )


@pytest.fixture
def state(train):
    return train.init(params_of(), batch_of(), model_state=model_state())


def damaged(state, **parts):
    """Return the state with the first element of the named moments replaced."""
    adam = state.opt_state[0]
    for moment, value in parts.items():
        leaves, structure = jax.tree.flatten(getattr(adam, moment))
        leaves[0] = jnp.full_like(leaves[0], value)
        adam = adam._replace(**{moment: jax.tree.unflatten(structure, leaves)})
    return state._replace(opt_state=(adam, *state.opt_state[1:]))


def test_a_second_moment_at_infinity_stops_the_run_and_the_audit_finds_it(train, state):
    before = train.audit(state)
    state = damaged(state, nu=jnp.inf)
    frozen = np.asarray(jax.tree.leaves(state.params)[0])
    for seed in (1, 2):
        state, _ = train.step(state, batch_of(seed), KEY)
    assert [row["accepted"] for row in rows_of(state)] == [0, 0]
    np.testing.assert_array_equal(jax.tree.leaves(state.params)[0], frozen)
    [(leaf, count)] = new_damage(train.audit(state), before).items()
    assert leaf.startswith("opt_state/0/nu/")
    assert count == frozen.size


def test_the_audit_of_a_healthy_state_finds_nothing_new(train, state):
    before = train.audit(state)
    state, _ = train.step(state, batch_of(1), KEY)
    assert new_damage(train.audit(state), before) == {}


def test_the_audit_names_the_worst_leaf_first():
    damage = {f"leaf{i}": i for i in range(1, 8)}
    text = describe(damage)
    assert text.startswith("leaf7: 7 elements, leaf6: 6 elements")
    assert text.endswith("and 2 more leaves")


def test_a_snapshot_on_the_host_outlives_the_state_and_restores_it_bit_for_bit(
    train, state
):
    state, _ = train.step(state, batch_of(1), KEY)
    wanted = bits((state.params, state.opt_state, state.model_state))
    kept = train.keep(state)
    assert {x.sharding.memory_kind for x in jax.tree.leaves(kept)} == {"pinned_host"}
    for _ in range(2):
        for seed in (2, 3):
            state, _ = train.step(state, batch_of(seed), KEY)
        state = train.restore(state, kept)
        assert bits((state.params, state.opt_state, state.model_state)) == wanted
    assert rows_of(state)[-1]["step"] == 4


def test_a_rollback_is_counted_for_the_loop_and_refuses_its_step(train, state):
    kept = train.keep(state)
    before = bits(state.params)
    for _ in range(2):
        state, _ = train.step(state, batch_of(1, loss=np.nan), KEY)
    assert [row["rollbacks"] for row in rows_of(state)] == [0, 1]
    assert bits(state.params) == before
    state, _ = train.step(train.restore(state, kept), batch_of(2), KEY)
    assert rows_of(state)[-1]["accepted"] == 1


def test_the_way_back_is_not_taken_for_an_update():
    train = make_train_step(stateful_loss, optax.sgd(1e-3))
    state = train.init(params_of(), batch_of(), model_state=model_state())
    kept = train.keep(state)
    for seed in range(40):
        state, _ = train.step(state, batch_of(seed), KEY)
    far = jax.tree.map(lambda x: x + 10, state.params)
    state, _ = train.step(state._replace(params=far), batch_of(40), KEY)
    state, _ = train.step(train.restore(state, kept), batch_of(1), KEY)
    row = rows_of(state)[-1]
    assert row["update_norm"] < 1.0
