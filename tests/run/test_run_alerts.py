from stabjax.health import Alert, explain, names_of
from stabjax.run.alerts import QUIET_STEPS, AlertLog


def make(last_seen=()):
    return AlertLog(
        names={bit.value: names_of(bit.value)[0] for bit in Alert},
        explain=lambda bit: explain(Alert(bit)),
        leaves=("a/w", "b/w"),
        components=("raw/mcmc",),
        last_seen=last_seen,
    )


def row(step, alerts=0, leaf=-1, component=-1):
    return {
        "step": step,
        "alerts": int(alerts),
        "first_bad_leaf": leaf,
        "first_bad_component": component,
    }


def test_a_thousand_clipped_steps_make_one_event():
    log = make()
    events = [e for s in range(1000) for e in log.see(row(s, Alert.CLIPPED))]
    assert [(e["step"], e["alert"]) for e in events] == [(0, "clipped")]
    assert log.counts == {"clipped": 1000}


def test_every_other_step_is_one_event_too():
    log = make()
    events = [
        e for s in range(1000) for e in log.see(row(s, Alert.CLIPPED if s % 2 else 0))
    ]
    assert len(events) == 1


def test_an_alert_after_silence_is_news_again():
    log = make()
    assert log.see(row(0, Alert.LOSS_SPIKE))
    assert not log.see(row(QUIET_STEPS, Alert.LOSS_SPIKE))
    assert log.see(row(2 * QUIET_STEPS + 1, Alert.LOSS_SPIKE))


def test_an_event_names_cause_leaf_component_and_what_to_do():
    alerts = Alert.NONFINITE_GRADIENT | Alert.CLIPPED
    events = make().see(row(7, alerts, leaf=1, component=0))
    assert [e["alert"] for e in events] == ["nonfinite_gradient", "clipped"]
    assert events[0]["step"] == 7
    assert events[0]["leaf"] == "b/w"
    assert events[0]["component"] == "raw/mcmc"
    assert events[0]["cause"] == explain(Alert.NONFINITE_GRADIENT).cause
    assert events[0]["suggestion"] == explain(Alert.NONFINITE_GRADIENT).suggestion


def test_another_leaf_is_another_alert():
    log = make()
    assert log.see(row(0, Alert.NONFINITE_GRADIENT, leaf=0))
    assert log.see(row(1, Alert.NONFINITE_GRADIENT, leaf=1))


def test_a_resumed_log_remembers_what_was_told():
    log = make()
    log.see(row(0, Alert.CLIPPED))
    assert not make(log.state()).see(row(1, Alert.CLIPPED))
    assert make(log.state()).see(row(QUIET_STEPS + 1, Alert.CLIPPED))
