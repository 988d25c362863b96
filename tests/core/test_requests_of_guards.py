"""What a guard can ask for besides refusing: repair, reset, a scaled loss."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import rows_of

from stabjax.guards import clip_by_global_norm
from stabjax.train_step import make_train_step
from stabjax.transforms import guard
from stabjax.types import Alert, Guard, verdict

FORMS = ("branch", "select")


class NoState(NamedTuple):
    """Nothing to remember."""


def asks(name="asks", judge=lambda stats: verdict(), **fields):
    """Return a guard without memory that answers by ``judge``."""
    return Guard(name, NoState, lambda state, stats: (state, judge(stats)), **fields)


def linear_loss(params, batch, key):
    """Return a loss whose gradient with respect to ``w`` is the batch."""
    del key
    loss = jnp.sum(params["w"] * batch)
    return loss, {"share": jnp.asarray(0.25, jnp.bfloat16), "count": jnp.int32(3)}


def trained(guards, batches, form, optimizer=None):
    train = make_train_step(
        linear_loss, optimizer or optax.sgd(1.0), guards=guards, form=form
    )
    batches = jnp.asarray(batches, jnp.float32)
    state = train.init({"w": jnp.zeros(batches.shape[1])}, batches[0])
    for batch in batches:
        state, _ = train.step(state, batch, jax.random.key(0))
    return state


def when(bit, condition):
    return bit.when(jnp.asarray(condition))


@pytest.mark.parametrize("form", FORMS)
def test_repair_sets_to_zero_and_counts_what_is_not_finite(form):
    seen = asks(
        judge=lambda s: verdict(alerts=when(Alert.REPAIRED, s.repaired == 2)),
        repairs=True,
    )
    # The loss of such a batch is not finite, so that only the gradient is damaged.
    train = make_train_step(linear_loss, optax.sgd(1.0), guards=[seen], form=form)
    state = train.init({"w": jnp.zeros(4)}, jnp.zeros(4))
    gradient = {"w": jnp.asarray([1.0, jnp.nan, -2.0, jnp.inf])}
    aux = {"share": jnp.float32(0), "count": jnp.float32(0)}
    state, row = jax.jit(train.apply_gradients)(state, 1.0, aux, gradient)
    np.testing.assert_array_equal(state.params["w"], [-1.0, 0.0, 2.0, 0.0])
    [row] = rows_of(state)
    assert row["accepted"] == 1
    assert row["alerts"] == int(Alert.REPAIRED)
    np.testing.assert_allclose(row["grad_norm"], np.sqrt(5.0), rtol=1e-6)


@pytest.mark.parametrize("bad", [0, 65_535, 65_536, 150_000])
def test_repair_finds_a_bad_element_in_every_block_of_a_large_leaf(bad):
    count = asks(
        judge=lambda s: verdict(alerts=when(Alert.REPAIRED, s.repaired == 1)),
        repairs=True,
    )
    train = make_train_step(linear_loss, optax.sgd(1.0), guards=[count], form="branch")
    size = 150_001
    state = train.init({"w": jnp.zeros(size)}, jnp.zeros(size))
    gradient = {"w": jnp.ones(size).at[bad].set(jnp.nan)}
    aux = {"share": jnp.float32(0), "count": jnp.float32(0)}
    state, row = jax.jit(train.apply_gradients)(state, 1.0, aux, gradient)
    np.testing.assert_array_equal(state.params["w"][bad], 0.0)
    [row] = rows_of(state)
    assert row["alerts"] == int(Alert.REPAIRED)
    np.testing.assert_allclose(row["grad_norm"], np.sqrt(size - 1), rtol=1e-5)


def test_repair_works_inside_a_chain():
    optimizer = guard(optax.sgd(1.0), asks(repairs=True), clip_by_global_norm())
    params = {"w": jnp.zeros(2)}
    gradient = {"w": jnp.asarray([4.0, jnp.nan])}
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    np.testing.assert_allclose(updates["w"], [-1.0, 0.0])


@pytest.mark.parametrize("form", FORMS)
def test_a_reset_starts_the_optimizer_anew_and_keeps_the_parameters(form):
    reset = asks(
        judge=lambda s: verdict(reset_moments=s.step == 2), resets_moments=True
    )
    batches = [[1.0, 2.0]] * 3
    kept = trained([], batches, form, optax.adam(0.1))
    ours = trained([reset], batches, form, optax.adam(0.1))
    chex.assert_trees_all_equal(ours.params, kept.params)
    chex.assert_trees_all_equal(ours.opt_state, optax.adam(0.1).init(ours.params))
    flags = [row["alerts"] & Alert.MOMENTS_RESET for row in rows_of(ours)]
    assert flags == [0, 0, Alert.MOMENTS_RESET]


@pytest.mark.parametrize("form", FORMS)
def test_a_scaled_loss_changes_no_statistic_and_no_update(form):
    clip = clip_by_global_norm(max_norm=0.5)
    scale = asks(loss_scale=lambda state: jnp.float32(2.0**15))
    batches = [[1.0, 2.0], [0.1, 0.2], [np.nan, 0.0], [3e30, 0.0]]
    plain = trained([clip], batches, form)
    ours = trained([clip, scale], batches, form)
    chex.assert_trees_all_close(ours.params, plain.params, rtol=1e-6)
    for one, other in zip(rows_of(ours), rows_of(plain), strict=True):
        # The guard that scales rings in a column of its own, and never does.
        assert one.pop("asks/alerts") == 0
        np.testing.assert_equal(one, other)


def test_a_scaled_loss_saves_gradients_that_underflow():
    def half(params, batch, key):
        hidden = params["w"].astype(jnp.float16) * jnp.float16(1e-4)
        return jnp.sum(hidden * jnp.float16(1e-4)), {}

    def moved(guards):
        train = make_train_step(half, optax.sgd(1.0), guards=guards)
        state = train.init({"w": jnp.zeros(1)}, 0.0)
        state, _ = train.step(state, 0.0, jax.random.key(0))
        return -float(state.params["w"][0])

    assert moved([]) == 0.0
    scaled = moved([asks(loss_scale=lambda state: jnp.float32(2.0**10))])
    assert scaled == pytest.approx(1e-8, rel=1e-2)


def test_a_guard_sees_the_metrics_of_the_loss_in_float32():
    found = {}

    def judge(stats):
        found.update(stats.metrics)
        assert all(x.dtype == jnp.float32 for x in stats.metrics.values())
        return verdict(accept=stats.metrics["share"] < 0.2)

    state = trained([asks(judge=judge)], [[1.0]], "branch")
    assert sorted(found) == ["count", "share"]
    assert rows_of(state)[0]["accepted"] == 0


def test_only_a_train_step_can_scale_the_loss():
    scale = asks(loss_scale=lambda state: jnp.float32(2.0))
    with pytest.raises(ValueError, match="asks scales the loss"):
        guard(optax.identity(), scale)


def test_the_layout_says_how_large_each_leaf_is():
    seen = []
    note = asks(judge=lambda s: seen.append(s.layout) or verdict())
    optimizer = guard(optax.identity(), note)
    tree = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(())}
    optimizer.update(tree, optimizer.init(tree))
    assert seen[0].sizes == (6, 1)


@pytest.mark.parametrize("form", FORMS)
def test_a_reset_with_a_rollback_starts_anew_from_the_snapshot(form):
    both = asks(
        judge=lambda s: verdict(reset_moments=s.step == 3, roll_back=s.step == 3),
        resets_moments=True,
        rolls_back=True,
    )
    train = make_train_step(
        linear_loss, optax.adam(0.1), guards=[both], form=form, snapshot_every=2
    )
    state, kept = train.init({"w": jnp.zeros(1)}, jnp.zeros(1)), []
    for _ in range(4):
        state, _ = train.step(state, jnp.ones(1), jax.random.key(0))
        kept.append(np.asarray(state.params["w"]))
    np.testing.assert_array_equal(state.params["w"], kept[1])
    chex.assert_trees_all_equal(state.opt_state, optax.adam(0.1).init(state.params))
