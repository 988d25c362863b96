import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.run.page_records import ALERTS, as_number, read_run
from stabjax.types import Alert


def test_the_alert_names_are_those_of_the_library():
    names = [alert.name.lower() for alert in Alert if alert.name]
    assert list(ALERTS) == names
    assert [int(alert) for alert in Alert] == [1 << k for k in range(len(names))]


@pytest.mark.parametrize(
    ("text", "value"),
    [("null", math.nan), ('"nan"', math.nan), ("NaN", math.nan), ('"inf"', math.inf),
     ('"-inf"', -math.inf), ("-Infinity", -math.inf), ("1e-3", 1e-3), ("true", 1.0)],
)  # fmt: skip
def test_every_spelling_of_a_number_is_read(text, value):
    np.testing.assert_equal(as_number(json.loads(text)), value)


@pytest.mark.parametrize("value", ["fast", [], {}, "0x10"])
def test_what_is_no_number_is_none(value):
    assert as_number(value) is None


def test_a_torn_last_line_is_left_out_and_said(run_folder):
    path = run_folder / "health.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    run = read_run(run_folder)
    assert len(run.steps) == 59
    assert any("last line is torn" in problem for problem in run.problems)


def test_of_a_step_written_twice_the_last_line_counts(tmp_path):
    lines = [{"step": 1, "loss": 5.0}, {"step": 0, "loss": 3.0}, {"step": 1, "loss": 7}]
    (tmp_path / "health.jsonl").write_text("\n".join(map(json.dumps, lines)))
    column = read_run(tmp_path).column("loss")
    assert column.steps.tolist() == [0, 1]
    assert column.values.tolist() == [3.0, 7.0]


@pytest.mark.parametrize(
    "alerts", [65, "NONFINITE_LOSS|CLIPPED", ["clipped", "NONFINITE_LOSS"]]
)
def test_alerts_are_read_as_bits_or_names(tmp_path, alerts):
    (tmp_path / "health.jsonl").write_text(json.dumps({"step": 4, "alerts": alerts}))
    assert set(read_run(tmp_path).alerts[4]) == {"nonfinite_loss", "clipped"}


def test_an_empty_folder_gives_an_empty_record_that_says_what_is_missing(tmp_path):
    run = read_run(tmp_path)
    assert (len(run.steps), run.columns, run.events) == (0, {}, [])
    assert len(run.problems) == 3


@given(st.binary(max_size=300))
def test_no_bytes_in_a_run_folder_can_raise(tmp_path_factory, noise):
    folder = tmp_path_factory.mktemp("noise")
    for name in ("health.jsonl", "events.jsonl", "config.yaml", "run.json"):
        (folder / name).write_bytes(noise)
    read_run(folder)
