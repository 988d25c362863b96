"""The advice names what exists, and every alert has its severity."""

import functools
import importlib
import inspect
import re
import typing

import jax
import pytest

import stabjax
from stabjax import guards, loss_transforms, losses, numerics
from stabjax.health import Alert, Severity, explain, severity
from stabjax.train_step import TrainStep
from stabjax.types import Verdict

ADVICE = {alert: explain(alert).suggestion for alert in Alert}
GRADIENT = ADVICE[Alert.NONFINITE_GRADIENT]


def resolves(path):
    """Return whether a dotted path under the package leads to something."""
    head, *names = path.split(".")
    found = importlib.import_module(head)
    for name in names:
        if not hasattr(found, name):
            return False
        found = getattr(found, name)
    return True


@pytest.mark.parametrize("alert", Alert, ids=lambda alert: alert.name)
def test_every_name_in_an_advice_exists(alert):
    text = ADVICE[alert]
    known = {"on_exhausted", *Verdict._fields, *dir(jax.lax)}
    assert "on_exhausted" in inspect.signature(guards.skip_nonfinite).parameters
    for module in (stabjax, numerics, losses, guards, loss_transforms):
        known.update(dir(module))
    assert set(re.findall(r"\b[a-z]+(?:_[a-z0-9]+)+\b", text)) <= known
    for path in re.findall(r"\bstabjax(?:\.\w+)+", text):
        assert resolves(path), path
    for method in re.findall(r"\btrain\.(\w+)", text):
        assert hasattr(TrainStep, method) or method in TrainStep.__annotations__


def test_every_safe_form_is_named_in_the_advice_on_gradients():
    forms = [name for name in numerics.__all__ if name.startswith("safe_")]
    assert len(forms) >= 11
    for name in [*forms, "masked_softmax"]:
        assert re.search(rf"\b{name}\b", GRADIENT), name


@pytest.mark.parametrize(
    ("cause", "form"),
    [
        ("square root or norm at 0", "safe_sqrt, safe_norm"),
        ("division by 0", "safe_divide"),
        ("log of 0", "safe_log"),
        ("exponent below one at 0", "safe_power"),
        ("arccos or arcsin at +-1", "safe_arccos, safe_arcsin"),
        ("equal eigenvalues or singular values", "safe_eigh, safe_svd"),
        ("softmax with every key masked", "masked_softmax"),
    ],
)
def test_the_advice_on_gradients_names_each_cause_with_its_form(cause, form):
    assert f"{cause} ({form}" in GRADIENT
    assert "where-branch" in GRADIENT


def test_the_advice_knows_half_precision_and_damage_from_outside():
    text = ADVICE[Alert.NONFINITE_STATE]
    for words in ("eps >= 1e-4", "float16", "overflow", "learning rate", "outside"):
        assert words in text
    for alert in (Alert.NORM_OVERFLOW, Alert.GRADIENT_RANGE, Alert.NONFINITE_GRADIENT):
        assert "stabjax.guards.dynamic_loss_scale" in ADVICE[alert]


@pytest.mark.parametrize("alert", Alert, ids=lambda alert: alert.name)
def test_an_advice_is_at_most_three_sentences(alert):
    assert len(re.findall(r"[.?!](?= [A-Z]|$)", ADVICE[alert])) <= 3


def test_every_alert_has_a_severity_and_an_error_is_what_ends_a_run_or_harms_it():
    of = {alert: severity(alert) for alert in Alert}
    assert set(of.values()) == set(typing.get_args(Severity))
    named = lambda grade: functools.reduce(
        lambda bits, alert: bits | alert, [a for a in Alert if of[a] == grade]
    )
    assert named("error") == (
        Alert.ROLLBACK | Alert.HALT | Alert.ACCEPTED_NONFINITE | Alert.DAMAGED_BEFORE
    )
    assert named("information") == (
        Alert.CLIPPED
        | Alert.PLATEAU
        | Alert.REBASED
        | Alert.MOMENTS_RESET
        | Alert.LOSS_SCALE
        | Alert.NORM_OVERFLOW
        | Alert.LOSS_SPIKE
        | Alert.GRADIENT_SPIKE
        | Alert.UPDATE_SPIKE
        | Alert.UPDATE_RATIO
    )


@pytest.mark.parametrize("bits", [Alert(0), Alert.CLIPPED | Alert.HALT])
def test_the_severity_of_none_or_several_is_refused(bits):
    with pytest.raises(KeyError):
        severity(bits)
    assert stabjax.health.severity is severity
