"""The ring of telemetry: every column of a known step, order, and meaning."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, rows_of

from stabjax.guards import clip_by_group_norm, escalate, reduce_on_plateau
from stabjax.health import Alert, TelemetrySchema, decode, explain, names_of
from stabjax.train_step import make_train_step

GUARDS = [
    clip_by_group_norm(max_norm=1.0, groups=["b"]),
    reduce_on_plateau(patience=0, factor=0.5, accumulation_size=1, metric="raw/fit"),
    escalate(max_rollbacks=0),
    escalate(max_rollbacks=0),
]


def loss_fn(params, batch, key):
    """Return a loss whose gradient is the batch, four times in ``a``, once in ``b``."""
    fit = jnp.sum(params["a"]) * batch + params["b"] * batch
    aux = {
        "raw/fit": fit,
        "weighted/fit": 2.0 * fit,
        "raw/other": batch * 0.0 + 7.0,
        "accuracy": batch / 0.0 * 0.0,
        "noise": jax.random.uniform(key),
    }
    return 2.0 * fit, aux


@pytest.fixture(scope="module", params=["branch", "select"])
def train(request):
    options = {"guards": GUARDS, "window": 4, "form": request.param}
    return make_train_step(loss_fn, optax.sgd(0.1), **options)


def after(train, *values):
    state = train.init({"a": jnp.ones(4), "b": jnp.ones(())}, jnp.ones(()))
    for value in values:
        state, row = train.step(state, jnp.asarray(value, jnp.float32), KEY)
    return state, row


def test_every_column_of_a_known_step_has_its_value(train):
    state, _ = after(train, 1.0, 3.0)
    row = rows_of(state)[1]
    # First step: the gradient 2 is clipped to norm 1 in both groups, times 0.1.
    a, b = 1.0 - 0.1 * 0.5, 1.0 - 0.1
    fit, moved = 3.0 * (4 * a + b), 0.1 * np.sqrt(2)
    assert row.pop("noise") == pytest.approx(0.5, abs=0.5)
    assert np.isnan(row.pop("accuracy"))
    expected = {
        "step": 1,
        "accepted": 1,
        "applied_total": 2,
        "refused_total": 0,
        "consecutive_refused": 0,
        "alerts": int(Alert.CLIPPED | Alert.PLATEAU),
        "first_bad_leaf": -1,
        "first_bad_component": -1,
        "nonfinite_elements": 0,
        "halted": 0,
        "rollbacks": 0,
        "loss": 2 * fit,
        "raw/fit": fit,
        "weighted/fit": 2 * fit,
        "raw/other": 7.0,
        "grad_norm": 6 * np.sqrt(5),
        "update_norm": moved,
        "update_ratio": moved / np.sqrt(4 * a**2 + b**2),
        "gradient_scale": 1 / 12,
        "update_scale": 0.5,
        "clip_by_group_norm/seen/b": 2,
        "clip_by_group_norm/seen/rest": 2,
        "clip_by_group_norm/clip_fraction/b": 1.0,
        "clip_by_group_norm/clip_fraction/rest": 1.0,
        "clip_by_group_norm/typical_norm/b": np.sqrt(2 * 6),
        "clip_by_group_norm/typical_norm/rest": np.sqrt(4 * 12),
        "reduce_on_plateau/scale": 0.5,
        "reduce_on_plateau/averages": 2,
        "reduce_on_plateau/best": 5.0,
        "reduce_on_plateau/bad": 0,
        "reduce_on_plateau/cooldown_left": 0,
        "reduce_on_plateau/reductions": 1,
        "reduce_on_plateau/sum": 0.0,
        "reduce_on_plateau/in_sum": 0,
    }
    counters = {"since", "rollbacks"}
    expected |= {f"escalate{n}/{c}": 0 for n in ("", "#2") for c in counters}
    expected |= {f"escalate{n}/share": 0.0 for n in ("", "#2")}
    rang = {"clip_by_group_norm": Alert.CLIPPED, "reduce_on_plateau": Alert.PLATEAU}
    rang |= {"escalate": Alert(0), "escalate#2": Alert(0)}
    expected |= {f"{guard}/alerts": int(bits) for guard, bits in rang.items()}
    expected["update_measured"] = 1
    assert row == pytest.approx(expected, rel=1e-4)


def test_a_refused_row_names_leaf_and_component_and_counts(train):
    state, _ = after(train, 1.0, np.nan, np.inf, 1.0)
    rows = rows_of(state)
    assert [row["accepted"] for row in rows] == [1, 0, 0, 1]
    assert [row["refused_total"] for row in rows] == [0, 1, 2, 2]
    assert [row["consecutive_refused"] for row in rows] == [0, 1, 2, 0]
    assert state.telemetry.schema.leaf(rows[1]) == "a"
    assert state.telemetry.schema.component(rows[1]) == "raw/fit"
    assert state.telemetry.schema.leaf(rows[0]) is None
    assert {"nonfinite_loss", "nonfinite_component", "nonfinite_gradient"} <= set(
        names_of(rows[1]["alerts"])
    )


@pytest.mark.parametrize("steps", [1, 3, 4, 5, 11])
def test_the_ring_keeps_the_last_rows_oldest_first(train, steps):
    state, last = after(train, *np.arange(1.0, steps + 1))
    rows = rows_of(state)
    assert [row["step"] for row in rows] == list(range(max(0, steps - 4), steps))
    schema = train.schema(state)
    newest = rows[-1]
    floats = dict(zip(schema.floats, np.asarray(last.floats).tolist(), strict=True))
    if not newest["update_measured"]:
        floats |= {"update_norm": np.nan, "update_ratio": np.nan}
    assert {k: newest[k] for k in floats} == pytest.approx(floats, nan_ok=True)
    assert np.asarray(last.ints).tolist() == [newest[name] for name in schema.ints]


def test_a_state_that_never_stepped_has_no_rows(train):
    state = train.init({"a": jnp.ones(4), "b": jnp.ones(())}, jnp.ones(()))
    assert rows_of(state) == []


def test_every_step_draws_another_key_and_a_resumed_run_the_same(train):
    noise = [row["noise"] for row in rows_of(after(train, 1.0, np.nan, 1.0, 1.0)[0])]
    assert len(set(noise)) == 4
    assert [row["noise"] for row in rows_of(after(train, 1.0, 1.0)[0])] == noise[:2]


def test_the_unguarded_step_records_the_same_columns_and_applies_everything():
    train = make_train_step(loss_fn, optax.sgd(0.1), guards=None, window=4)
    state, _ = after(train, 1.0, np.nan)
    row = rows_of(state)[1]
    assert row["accepted"] == 1
    assert row["alerts"] & int(Alert.NONFINITE_GRADIENT)
    assert np.isnan(np.asarray(state.params["a"])).all()


def test_decode_leaves_out_what_was_never_written():
    schema = TelemetrySchema(("loss",), ("step",), ("w",), ())
    floats = np.asarray([[3.0], [1.0], [np.nan], [2.0]])
    ints = np.asarray([[7], [5], [-1], [6]])
    rows = decode(schema, floats, ints)
    assert rows == [{"step": s, "loss": x} for s, x in ((5, 1.0), (6, 2.0), (7, 3.0))]
    assert all(type(value) in (int, float) for row in rows for value in row.values())


def test_every_alert_is_explained_and_named():
    for alert in Alert:
        explanation = explain(alert)
        assert explanation.cause.endswith(".")
        assert explanation.suggestion.endswith(".")
        assert names_of(int(alert)) == (alert.name.lower(),)
    with pytest.raises(KeyError):
        explain(Alert.CLIPPED | Alert.HALT)
    assert names_of(0) == ()
