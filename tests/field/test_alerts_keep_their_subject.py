"""An alert names guard, metric and value, and any number of guards can ring."""

import numpy as np
import optax
from small import START, regression, squared_error, trained

from stabjax import guards, health
from stabjax.run.alerts import AlertLog


def test_two_guards_of_one_kind_do_not_hide_each_other():
    def loss(params, batch, key):
        total, aux = squared_error(params, batch, key)
        return total, aux | {"low": batch["low"], "high": batch["high"]}

    batches = [
        batch | {"low": np.float32(-step), "high": np.float32(step)}
        for step, batch in enumerate(regression(5))
    ]
    given = [
        guards.metric_range(metric="low", low=-1.5),
        guards.metric_range(metric="high", high=2.5),
        guards.sentinel(metric="high", value=4.0),
    ]
    train, state, rows = trained(loss, optax.adam(1e-2), given, START, batches)
    schema = train.schema(state)
    assert schema.subjects == (
        ("metric_range/alerts", "low"),
        ("metric_range#2/alerts", "high"),
        ("sentinel/alerts", "high"),
    )
    log = AlertLog(
        names={bit.value: bit.name.lower() for bit in health.Alert},
        explain=lambda bit: health.explain(health.Alert(bit)),
        subjects=schema.subjects,
    )
    events = [event for row in rows for event in log.see(row)]
    told = [(e["step"], e["guard"], e["subject"], e["value"]) for e in events]
    assert told == [
        (2, "metric_range", "low", -2.0),
        (3, "metric_range#2", "high", 3.0),
        (4, "sentinel", "high", 4.0),
    ]
    assert log.counts == {"out_of_range": 3, "sentinel": 1}
    # What was rung before a resume is no news after it.
    again = AlertLog({}, lambda bit: ("", ""), subjects=schema.subjects,
                     last_seen=log.state())  # fmt: skip
    assert again.see(rows[-1]) == []


def test_an_alert_of_the_finite_contract_is_of_no_guard():
    batches = regression(2)
    batches[1]["x"][0, 0] = np.nan
    given = [guards.skip_nonfinite(), guards.clip_by_global_norm(max_norm=1e-3)]
    train, state, rows = trained(squared_error, optax.adam(1e-2), given, START, batches)
    log = AlertLog(
        names={bit.value: bit.name.lower() for bit in health.Alert},
        explain=lambda bit: health.explain(health.Alert(bit)),
        subjects=train.schema(state).subjects,
    )
    assert [e["guard"] for e in log.see(rows[0])] == ["clip_by_global_norm"]
    assert all("guard" not in event for event in log.see(rows[1]))
