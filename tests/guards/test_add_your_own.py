"""The page that tells how to add a guard: its code runs, and keeps the contract."""

import inspect
import pathlib
import re

import numpy as np
import pytest
import test_guard_contract as contract
from helpers import batch_of, face_with, judge_series, params_of, rows_of, run

import stabjax
from stabjax.cli import main
from stabjax.config import ConfigError, build_guards, loads
from stabjax.guards import GUARDS

PAGE = pathlib.Path(stabjax.__file__).parent / "guards" / "README.md"
NAME = "skip_far_from_best"
CONFIG = "model: {name: ctm}\nguards: [{kind: skip_far_from_best, margin: %s}]"


@pytest.fixture(scope="module", autouse=True)
def registered():
    """Run the code of the page, as a reader would, and forget it afterwards."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    known = dict(GUARDS)
    exec(compile(code, str(PAGE), "exec"), {"__name__": "page"})
    yield code
    GUARDS.clear()
    GUARDS.update(known)


def test_it_is_short_and_has_one_registration(registered):
    lines = [line for line in registered.splitlines() if line.strip()]
    guard = registered[registered.index("class ") :]
    assert len([line for line in guard.splitlines() if line.strip()]) <= 30
    assert sum("GUARDS[" in line for line in lines) == 1


def test_it_does_what_it_says():
    loss = [9.0, 2.0, 6.9, 7.1, np.nan, 3.0, *[8.0] * 25]
    trace = judge_series(GUARDS[NAME](patience=20), loss=loss)
    assert trace.accepted[:6].tolist() == [True, True, True, False, False, True]
    assert trace.accepted[6:26].tolist() == [False] * 20
    assert trace.accepted[26:].all(), "a lasting rise is the new level"
    assert trace.state.best[-1] == 8.0


@pytest.mark.slow
def test_the_contract_tests_run_over_it():
    face = face_with({}, NAME, "branch")
    warm = run(face, [batch_of(step) for step in range(3)])
    known = {"face": face, "form": "branch", "name": NAME, "warm": warm}
    held = 0
    for title, test in inspect.getmembers(contract, inspect.isfunction):
        wanted = list(inspect.signature(test).parameters)
        if title.startswith("test_") and wanted and set(wanted) <= set(known):
            test(**{name: known[name] for name in wanted})
            held += 1
    assert held >= 8


def test_its_state_is_telemetry():
    face = face_with({}, NAME, "branch")
    state = run(face, [batch_of(0)], face.init(params_of()))
    assert rows_of(state)[0][f"{NAME}/streak"] == 0
    assert rows_of(state)[0][f"{NAME}/best"] == pytest.approx(rows_of(state)[0]["loss"])


def test_a_configuration_names_it_and_its_options_are_checked(capsys):
    (guard,) = build_guards(loads(CONFIG % 2.0))
    assert guard.name == NAME
    for wrong, message in (("-1", "margin must be in"), ("two", "margin must be")):
        with pytest.raises(ConfigError, match=message):
            loads(CONFIG % wrong)
    with pytest.raises(ConfigError, match="did you mean 'margin'"):
        loads(CONFIG.replace("margin", "margn") % 1)
    assert main(["list", "guards"]) == 0
    assert f"{NAME}(margin=5.0, patience=20)" in capsys.readouterr().out
