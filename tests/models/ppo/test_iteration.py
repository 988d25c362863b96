"""An iteration in one program: guarded updates, one row, and nothing half done."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ppo_haste import in_haste

from stabjax.guards import skip_nonfinite
from stabjax.health.schema import FLOATS, INTS, TelemetrySchema
from stabjax.models.ppo import policy, telemetry
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.environments import make_environment
from stabjax.train_step import Row
from stabjax.types import Alert

KEY = jax.random.key(1)


def start(config, guards=(), **options):
    vector = make_environment(config)
    iteration, draw = assemble(
        config, vector, optimizer=optax.adam(3e-3), guards=guards, window=4, **options
    )
    params = draw(jax.random.key(0))
    first = iteration.first_model_state(params, jax.random.key(2))
    init = in_haste(
        lambda params, first: iteration.init(params, None, model_state=first)
    )
    return iteration, init(params, first)


def named(schema, row):
    floats = dict(zip(schema.floats, np.asarray(row.floats).tolist(), strict=True))
    return floats | dict(zip(schema.ints, np.asarray(row.ints).tolist(), strict=True))


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


@pytest.fixture(scope="module")
def loop(tiny):
    """Everything at once: PopArt, a KL limit, a clip, and guards that roll back."""
    config = tiny(
        return_normalization="pop_art",
        target_kl=0.5,
        entropy_coef=0.01,
        trunk_gradients=False,
    )
    # One refusal more than an iteration has updates.
    guards = (skip_nonfinite(max_consecutive=5, on_exhausted="roll_back"),)
    iteration, state = start(config, guards, snapshot_every=1)
    compiled = in_haste(iteration.one)
    step = lambda state: compiled(state, {}, KEY)
    rows = []
    for _ in range(3):
        state, row = step(state)
        rows.append(named(state.telemetry.schema, row))
    return step, state, rows


def test_every_iteration_leaves_one_row_for_all_its_updates(loop):
    _, state, rows = loop
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert [row["updates"] for row in rows] == [4, 4, 4]
    assert [row["applied_total"] for row in rows] == [4, 8, 12]
    assert all(row["accepted"] for row in rows)
    ring = np.asarray(state.telemetry.ints[:, 0])
    assert ring.tolist() == [0, 1, 2, -1]


def test_in_the_first_minibatch_the_ratio_is_one_and_the_kl_zero(loop):
    for row in loop[2]:
        assert abs(row["first_log_ratio"]) < 1e-5
        assert row["approx_kl"] > 0.0  # on the whole it moves


def test_a_row_is_the_mean_of_the_updates_and_the_worst_of_the_norms(loop):
    row = loop[2][-1]
    total = row["weighted/policy"] + row["weighted/value"] + row["weighted/entropy"]
    assert row["loss"] == pytest.approx(total, rel=1e-4)
    assert row["raw/value"] == pytest.approx(
        sum(row[f"value_loss_{name}"] for name in ("angle", "velocity", "torque")),
        rel=1e-4,
    )
    assert row["clip_by_global_norm/seen"] == 12
    assert 0.0 < row["gradient_scale"] <= 1.0


def test_an_interrupted_loop_goes_on_bit_for_bit(loop):
    step, state, _ = loop
    there, _ = step(state)
    there, row = step(there)
    held = jax.tree.map(np.asarray, state)  # as through a checkpoint
    again, _ = step(jax.tree.map(jnp.asarray, held))
    again, other = step(again)
    assert bits(again) == bits(there)
    assert bits(other) == bits(row)


def spoiled(state):
    """Return the state with an environment that has gone wrong."""
    environments = state.model_state.environments
    broken = environments.observation.at[0, 0].set(jnp.nan)
    moved = environments._replace(observation=broken)
    return state._replace(model_state=state.model_state._replace(environments=moved))


def test_an_iteration_of_which_nothing_is_applied_changes_nothing(loop):
    """PopArt has moved its unit by then, and the head with it."""
    step, state, _ = loop
    wrong = spoiled(state)
    after, row = step(wrong)
    row = named(after.telemetry.schema, row)
    assert (row["updates"], row["updates_applied"], row["accepted"]) == (4, 0, 0)
    assert np.isnan(row["loss"])
    assert row["first_bad_component"] >= 0
    for name in ("params", "opt_state", "model_state"):
        assert bits(getattr(after, name)) == bits(getattr(wrong, name))


def test_after_a_rollback_environments_and_units_are_those_of_the_snapshot(loop):
    step, state, _ = loop
    after, _ = step(spoiled(state))
    after, row = step(after)
    row = named(after.telemetry.schema, row)
    # The fifth refusal exhausts the patience; the rest of the iteration is left out.
    assert (row["updates"], row["updates_applied"], row["rollbacks"]) == (1, 0, 1)
    assert row["alerts"] & int(Alert.ROLLBACK)
    assert row["step"] == 4
    for name in ("params", "opt_state", "model_state"):
        assert bits(getattr(after, name)) == bits(getattr(state.snapshot, name))
    healed, row = step(after)
    row = named(healed.telemetry.schema, row)
    assert (row["step"], row["updates_applied"]) == (5, 4)


@pytest.mark.slow
def test_above_the_kl_limit_the_rest_of_the_iteration_is_left_out(tiny):
    config = tiny(target_kl=1e-6)
    iteration, state = start(config)
    state, row = in_haste(iteration.one)(state, {}, KEY)
    row = named(state.telemetry.schema, row)
    # The first update sees no divergence yet, the second the one it made.
    assert row["updates"] == 2
    assert row["applied_total"] == 2


@pytest.mark.slow
def test_mapped_over_seeds_it_is_the_loop_of_each(tiny):
    iteration, state = start(tiny(), (skip_nonfinite(),), form="select")
    keys = jax.random.split(jax.random.key(5), 2)
    both = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    step = in_haste(jax.vmap(lambda s, k: iteration.one(s, {}, k)))
    with jax.debug_key_reuse(False):  # it takes halves of a mapped split for the whole
        mapped, _ = step(both, keys)
    one = in_haste(iteration.one)
    for index in range(2):
        alone, _ = one(state, {}, keys[index])
        for ours, theirs in zip(
            jax.tree.leaves(mapped.params), jax.tree.leaves(alone.params), strict=True
        ):
            np.testing.assert_allclose(ours[index], theirs, rtol=1e-4, atol=1e-5)


def prepare(config):
    """Return an iteration, its start, and the way from there to a prepared rollout."""
    vector = make_environment(config)
    iteration, draw = assemble(
        config, vector, optimizer=optax.adam(3e-3), guards=(), window=4
    )

    def prepared(params, before, factor):
        _, experience = iteration.interact(
            params, before.environments, jax.random.key(7)
        )
        step = experience.taken.step
        step = step._replace(rewards=factor * step.rewards)
        taken = experience.taken._replace(step=step)
        experience = experience._replace(taken=taken)
        return iteration.prepare(params, before, before.environments, experience)

    params = draw(jax.random.key(0))
    before = iteration.first_model_state(params, jax.random.key(2))
    return iteration, (params, before), prepared


def taught(config):
    """Return a function from a factor on the rewards to targets and advantages."""
    _, start, prepared = prepare(config)

    @in_haste
    def rows(factor):
        found = prepared(*start, factor).rows
        return found.target, found.advantage

    return rows


def test_in_a_unit_of_their_own_returns_of_any_size_teach_the_same(tiny):
    sound = taught(tiny())
    raw = taught(tiny(normalize_returns=False))
    plain, raw_plain = sound(1.0), raw(1.0)
    for factor in (1e-3, 1e4):
        for ours, theirs in zip(sound(factor), plain, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3)
        ratio = float(jnp.std(raw(factor)[0]) / jnp.std(raw_plain[0]))
        assert not 0.1 < ratio < 10.0


def test_the_originals_squashed_actions_break_the_ratio(tiny):
    iteration, start, prepared = prepare(tiny(stored_actions="seed"))
    actions = iteration.environment.of.actions

    @in_haste
    def largest_log_ratio(params, before):
        rows = prepared(params, before, 1.0).rows
        answer = iteration.apply(params, rows.observation)
        scored = policy.log_density(actions, answer, rows.action)
        return jnp.max(jnp.abs(scored - rows.log_prob))

    assert float(largest_log_ratio(*start)) > 0.1


def pulls(config, factor):
    _, start, prepared = prepare(config)
    names = ("value_gradient_share", "gradient/value/trunk", "gradient/policy/trunk")

    @in_haste
    def measured(params, before):
        metrics = prepared(params, before, factor).shared.metrics
        return [metrics[name] for name in names]

    return [float(x) for x in measured(*start)]


@pytest.mark.slow
def test_values_pull_harder_at_the_trunk_the_larger_the_returns_are(tiny):
    assert pulls(tiny(normalize_returns=False), 100.0)[0] > 0.99


@pytest.mark.slow
def test_values_with_a_trunk_of_their_own_leave_that_of_the_policy_alone(tiny):
    share, value, policy_alone = pulls(tiny(shared_encoder=False), 1.0)
    assert share == value == 0.0
    assert policy_alone > 0.0


def test_an_alert_of_any_update_reaches_the_row_with_the_guard_that_raised_it():
    column = "metric_range/alerts"
    schema = TelemetrySchema(FLOATS, (*INTS, column, *telemetry.COUNTS), (), ())
    updates = np.zeros((3, len(INTS) + 1), np.int32)
    place = [*INTS, column].index
    updates[:, [place("first_bad_leaf"), place("first_bad_component")]] = -1
    updates[0, [place("alerts"), place(column)]] = 4
    updates[1, place("alerts")] = 1
    updates[2, [place("alerts"), place(column)]] = 8  # left out, so it never was
    rows = Row(jnp.zeros((3, len(FLOATS))), jnp.asarray(updates))
    done = jnp.array([True, True, False])
    row = telemetry.one_row(schema, rows, done, jnp.int32(7))
    found = dict(zip(schema.ints, np.asarray(row.ints).tolist(), strict=True))
    assert (found["alerts"], found[column]) == (5, 4)
    assert (found["step"], found["updates"]) == (7, 2)
