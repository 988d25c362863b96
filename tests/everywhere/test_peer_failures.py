"""Failures of other libraries that are not ours: the whole list, and what was missing.

A number stands for a file of tests, listed below; those of this file have none.

| Peer              | Failure                            | Test, by its first words   |
|-------------------|------------------------------------|----------------------------|
| Levanter          | NaN times zero is an update        | 1 a_nan_times_zero         |
| Levanter, MaxText | one NaN freezes 128 steps          | 1 one_nan_does_not_freeze  |
| MaxText           | NaN accepted in the warm-up        | a_nan_in_the_first_steps   |
| AXLearn           | locked out after a 25-fold norm    | 1 a_lasting_norm_25        |
| AXLearn           | spread of a constant cancels       | 1 the_spread_of_a_nearly   |
| optax             | one NaN poisons MultiSteps         | a_nan_micro_batch; 1 multi |
| optax             | the NaN is let in after so many    | a_streak_of_nans           |
| optax             | a partition moves, another not     | 1 no_partition; 2 all_part |
| optax             | local decision in shard_map        | 3 in_shard_map             |
| optax             | an infinite moment freezes a leaf  | 1 an_infinite; 4 a_float16 |
| optax             | an overflowing norm is a zero step | 1 a_norm_that_overflows    |
| optax             | a NaN leaf spreads by clipping     | 1 a_nan_in_one_leaf        |
| optax             | a bound of zero makes NaN          | 1 a_zero_gradient          |
| optax             | zero_nans lets infinities pass     | repair_also_removes        |
| optax             | plateau: negative, NaN, -inf       | 1 a_plateau_is_not_seen    |
| optax             | plateau: patience zero             | a_plateau_without_patience |
| optax             | plateau: bfloat16                  | 1 a_plateau_of_a_bfloat16  |
| optax             | plateau: the last value of several | a_plateau_behind           |
| optax             | monitor fails in scan and cond     | the_state_is_one_tree      |
| optax             | AGC fails on an explicit mesh      | adaptive_clipping_runs     |
| optax             | an outer schedule moves on         | 2 a_schedule_around        |
| jmp               | the least scale is lost in jit     | the_floor_of_the_loss      |
| several           | decay and momentum move            | 1 weight_decay_and         |
| checkify          | a masked NaN is reported           | 5 a_nan_behind_a_mask      |

1 tests/guards/test_peer_regressions.py
2 tests/everywhere/test_optimizer_wrappers.py
3 and 5 tests/everywhere/test_jax_transformations.py
4 tests/everywhere/test_every_dtype.py
"""

import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, bits, judge_series
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from stabjax.guards import dynamic_loss_scale, reduce_on_plateau, skip_spikes
from stabjax.train_step import make_train_step
from stabjax.transforms import accumulate, adaptive_clip, guard, repair_nonfinite

WEIGHTS = {"w": jnp.ones((3,), jnp.float32)}
ONES = {"w": jnp.ones((3,), jnp.float32)}
NAN = {"w": jnp.asarray([1.0, np.nan, 1.0], jnp.float32)}


def fold(optimizer, gradients, values=None):
    """Return parameters and state after an update for each gradient, in one scan."""
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *gradients)
    values = jnp.asarray(np.ones(len(gradients)) if values is None else values)
    extra = optax.with_extra_args_support(optimizer)

    def step(carry, given):
        params, state = carry
        updates, state = extra.update(given[0], state, params, value=given[1])
        return (optax.apply_updates(params, updates), state), None

    start = (WEIGHTS, optimizer.init(WEIGHTS))
    given = (stacked, values.astype(jnp.float32))
    return jax.jit(lambda s, g: jax.lax.scan(step, s, g)[0])(start, given)


@pytest.mark.parametrize("at", range(4))
def test_a_nan_in_the_first_steps_is_refused_before_there_are_statistics(at):
    gradients = [NAN if step == at else ONES for step in range(4)]
    params, state = fold(guard(optax.sgd(0.1), skip_spikes()), gradients)
    np.testing.assert_allclose(params["w"], 0.7, rtol=1e-6)
    assert state.core.refused == 1


def test_a_nan_micro_batch_is_left_out_of_an_accumulation():
    params, state = fold(accumulate(optax.sgd(1.0), 2), [ONES, NAN, NAN, ONES, NAN])
    np.testing.assert_array_equal(params["w"], 0.0)
    assert state.gradient_step == 1
    poisoned, _ = fold(
        optax.MultiSteps(optax.sgd(1.0), 2).gradient_transformation(), [ONES, NAN, ONES]
    )
    assert np.isnan(poisoned["w"]).any(), "optax still does"


def test_a_streak_of_nans_is_never_let_in():
    params, state = fold(guard(optax.adam(0.1)), [ONES] + [NAN] * 20)
    assert np.isfinite(params["w"]).all()
    assert state.core.consecutive_refused == 20
    theirs, _ = fold(optax.apply_if_finite(optax.adam(0.1), 5), [ONES] + [NAN] * 20)
    assert np.isnan(theirs["w"]).any(), "optax still does"


def test_repair_also_removes_infinities():
    gradient = {"w": jnp.asarray([np.inf, np.nan, 1.0], jnp.float32)}
    link = repair_nonfinite()
    ours, state = link.update(gradient, link.init(gradient))
    np.testing.assert_array_equal(ours["w"], [0.0, 0.0, 1.0])
    assert state.elements == 2
    theirs, _ = optax.zero_nans().update(gradient, optax.zero_nans().init(gradient))
    assert np.isinf(theirs["w"][0]), "optax still does"


def test_a_plateau_without_patience_is_cut_where_flat_and_left_where_falling():
    given = reduce_on_plateau(patience=0, factor=0.5, accumulation_size=1)
    falling = judge_series(given, loss=10.0 - np.arange(6.0))
    flat = judge_series(given, loss=np.full(6, 10.0))
    assert (falling.update_scale == 1.0).all()
    assert (np.diff(flat.update_scale) < 0).any()


def test_a_plateau_behind_an_accumulation_sees_the_mean_of_all_values():
    plateau = guard(
        optax.sgd(1.0), reduce_on_plateau(patience=0, factor=0.5, accumulation_size=1)
    )
    values = [1.0, 2.0, 3.0, 10.0]
    _, state = fold(accumulate(plateau, 4), [ONES] * 4, values)
    assert state.inner_opt_state.core.guards[0].best == 4.0


def test_the_state_is_one_tree_from_the_first_step_to_the_last():
    optimizer = guard(optax.adam(0.1), skip_spikes(), reduce_on_plateau())
    start = optimizer.init(WEIGHTS)
    _, after = fold(optimizer, [ONES, NAN, ONES])
    assert jax.tree.structure(after) == jax.tree.structure(start)
    described = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]
    assert described(after) == described(start)
    update = lambda s: optimizer.update(ONES, s, WEIGHTS, value=jnp.float32(1))[1]
    either = jax.lax.cond(jnp.asarray(True), update, lambda s: s, start)
    assert either.core.applied == 1


@pytest.mark.parametrize("form", ["branch", "select"])
def test_the_floor_of_the_loss_scale_holds_through_jit(form):
    scale = dynamic_loss_scale(initial=8.0, floor=4.0, ceiling=16.0)

    def loss(params, batch, key):
        # A finite loss with an infinite gradient, as float16 gives it.
        return jnp.sum(params["w"]) + jnp.sum(
            jnp.sqrt(jnp.abs(params["w"] * batch))
        ), {}

    train = make_train_step(loss, optax.sgd(0.1), guards=[scale], form=form, window=4)
    state = train.init(WEIGHTS, np.float32(0))
    before = bits(state.params)
    for _ in range(4):
        state, _ = train.step(state, np.float32(0), KEY)
    core = train.guard_states(state)
    assert core.guards[0].scale == 4.0
    assert core.guards[0].at_floor == 3
    assert bits(state.params) == before


@pytest.mark.skipif(jax.device_count() < 8, reason="needs 8 devices")
def test_adaptive_clipping_runs_on_an_explicit_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    kernel = np.linspace(-1, 1, 32, dtype=np.float32).reshape(8, 4)
    link = adaptive_clip(0.01)
    alone = {"k": jnp.asarray(kernel)}
    expected, _ = link.update({"k": alone["k"] * 5}, link.init(alone), alone)
    for spec in (P("data"), P(None, None)):
        with jax.set_mesh(mesh):
            placed = jax.device_put({"k": kernel}, NamedSharding(mesh, spec))
            gradient = jax.tree.map(lambda x: x * 5, placed)
            updates, _ = jax.jit(link.update)(gradient, link.init(placed), placed)
        np.testing.assert_allclose(updates["k"], expected["k"], rtol=1e-6)


def test_every_row_of_the_table_names_a_test_that_exists():
    here = Path(__file__).parent
    text = sys.modules[__name__].__doc__ or ""
    files = {
        "": Path(__file__),
        "1": here.parent / "guards" / "test_peer_regressions.py",
        "2": here / "test_optimizer_wrappers.py",
        "3": here / "test_jax_transformations.py",
        "4": here / "test_every_dtype.py",
        "5": here / "test_jax_transformations.py",
    }
    rows = re.findall(r"^\| \S.*\| (\S.*?) *\|$", text, re.MULTILINE)[1:]
    assert len(rows) == 24
    for row in rows:
        for cell in row.split("; "):
            number, _, name = cell.rpartition(" ")
            assert f"def test_{name}" in files[number].read_text(), cell
