"""A metric of any name is logged beside the columns of ours, and replaces none."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, rows_of

import stabjax
from stabjax import guards, health
from stabjax.health.schema import FLOATS, INTS

PARAMS = {"w": jnp.asarray([1.0, -2.0])}
# Columns of two guards of a kind, of a vector, and of what optax counts itself.
OF_GUARDS = (
    "skip_spikes/streak/loss",
    "clip_by_global_norm/clip_ratio",
    "clip_by_global_norm#2/clip_ratio",
    "back_off/scale",
    "optimizer/total_notfinite",
)
FREE = ("accuracy", "raw", "loss/train", "aux/accuracy")
COMPONENTS = ("raw/fit", "weighted/fit")


def guards_of():
    return [
        guards.clip_by_global_norm(10.0),
        guards.clip_by_global_norm(5.0),
        guards.skip_spikes(),
        guards.back_off(),
    ]


def values_of(names):
    """Return a value for each metric that no column of ours has by chance."""
    return {name: -1000.0 - index for index, name in enumerate(names)}


def rows_with(names, steps=2, **options):
    """Return the rows of a run whose loss reports these metrics."""

    def loss_fn(params, batch):
        loss = batch * jnp.sum(params["w"] ** 2)
        report = {name: jnp.float32(value) for name, value in values_of(names).items()}
        return loss, report | dict.fromkeys(COMPONENTS, loss)

    optimizer = optax.apply_if_finite(optax.sgd(0.1), 3)
    train = stabjax.make_train_step(
        loss_fn, optimizer, **{"guards": guards_of()} | options
    )
    state = train.init(PARAMS, np.float32(1))
    for _ in range(steps):
        state, _ = train.step(state, np.float32(1), KEY)
    return train.schema(state), rows_of(state)


@functools.cache
def plain():
    return rows_with(())


@functools.cache
def crowded():
    return rows_with((*FLOATS, *INTS, *OF_GUARDS, *FREE))


def test_all_of_these_are_columns_of_ours():
    schema, _ = plain()
    assert {*FLOATS, *INTS, *OF_GUARDS} <= {*schema.floats, *schema.ints}


@pytest.mark.parametrize("name", [*FLOATS, *INTS, *OF_GUARDS])
def test_a_metric_of_this_name_replaces_no_column(name):
    _, without = plain()
    schema, rows = crowded()
    taken = values_of((*FLOATS, *INTS, *OF_GUARDS, *FREE))
    for row, expected in zip(rows, without, strict=True):
        np.testing.assert_array_equal(row[name], expected[name])
        assert row[f"aux/{name}"] == taken[name]
    assert f"aux/{name}" in schema.floats


@pytest.mark.parametrize("name", FREE)
def test_a_metric_of_another_name_keeps_it(name):
    schema, rows = crowded()
    taken = values_of((*FLOATS, *INTS, *OF_GUARDS, *FREE))
    assert name in schema.floats
    assert all(row[name] == taken[name] for row in rows)


def test_no_column_stands_twice():
    schema, _ = crowded()
    names = [*schema.floats, *schema.ints]
    assert len(set(names)) == len(names)
    assert schema.components == COMPONENTS


def test_a_metric_that_has_the_new_name_already_keeps_it_and_the_other_gets_one_more():
    schema, rows = rows_with(("loss", "aux/loss"), steps=1)
    assert {"loss", "aux/loss", "aux/aux/loss"} <= set(schema.floats)
    assert rows[0]["aux/aux/loss"] == -1000.0
    assert rows[0]["aux/loss"] == -1001.0
    assert rows[0]["loss"] == 5.0


def test_a_metric_called_halted_does_not_halt_a_run():
    _, rows = crowded()
    assert not any(row["halted"] for row in rows)
    assert [row["step"] for row in rows] == [0, 1]
    assert all(row["accepted"] for row in rows)
    assert all(health.names_of(row["alerts"]) == () for row in rows)


def test_a_guard_that_reads_the_loss_means_the_loss():
    watched = [
        guards.metric_range("loss", high=100.0),
        guards.metric_range("aux/loss", low=-10.0),
        guards.metric_range("aux/accuracy", low=-10.0),
        guards.metric_range("accuracy", low=-2000.0),
    ]
    _, rows = rows_with(("accuracy", "loss"), guards=watched)
    last = rows[-1]
    assert last["metric_range/streak"] == 0
    assert last["metric_range#2/streak"] == 2
    assert last["metric_range#3/streak"] == 2
    assert last["metric_range#4/streak"] == 0


def test_the_plateau_is_that_of_the_loss():
    plateau = guards.reduce_on_plateau(0.5, patience=1, accumulation_size=1)
    _, rows = rows_with(("loss",), steps=4, guards=[plateau])
    losses = [row["loss"] for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] > losses[-1]
    # The metric of that name stands still.
    assert rows[-1]["reduce_on_plateau/scale"] == 1.0


def test_a_name_that_is_not_there_is_told_with_those_that_are():
    watched = guards.sentinel("acuracy")
    train = stabjax.make_train_step(
        lambda p, b: (jnp.sum(p["w"]), {"accuracy": 1.0}),
        optax.sgd(0.1),
        guards=watched,
    )
    state = train.init(PARAMS, None)
    with pytest.raises(ValueError, match="Did you mean 'accuracy'"):
        jax.eval_shape(train.step, state, None, KEY)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_the_norm_of_the_parameters_is_measured_on_request(form):
    names = ("parameter_norm",)
    schema, rows = rows_with(names, form=form, measure_parameters=True)
    np.testing.assert_allclose(rows[0]["parameter_norm"], 5**0.5, rtol=1e-6)
    assert rows[1]["parameter_norm"] < 5**0.5
    assert rows[0]["aux/parameter_norm"] == values_of(names)["parameter_norm"]
    assert len(set(schema.floats)) == len(schema.floats)
    _, rows = rows_with((), form=form)
    assert "parameter_norm" not in rows[0]
