import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.run.page_numbers import Cell, reduce_run, share, show
from stabjax.run.page_records import Column, RunRecord

floats = st.floats(allow_nan=True, allow_infinity=True)


def record(values, events=()) -> RunRecord:
    values = np.asarray(values, np.float64)
    steps = np.arange(len(values))
    return RunRecord(
        folder=pathlib.Path("."), columns={"x": Column(steps, values)},
        steps=steps, alerts={}, events=list(events), config={}, config_text="",
        facts={}, problems=[],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("how", "value", "lost"),
    [("min", -3.0, 2), ("max", 8.0, 2), ("sum", 5.0, 2), ("last", math.inf, 2),
     ("count_nonfinite", 2.0, 0), ("mean_last_100", 5 / 2, 2)],
)  # fmt: skip
def test_reductions_are_over_finite_steps_and_count_the_others(how, value, lost):
    assert reduce_run(record([math.nan, -3.0, 8.0, math.inf]), "x", how) == (
        value,
        lost,
    )


def test_the_mean_is_over_the_last_hundred_steps():
    assert reduce_run(record(np.arange(250.0)), "x", "mean_last_100") == (199.5, 0)


def test_eval_is_the_last_evaluation_wherever_it_keeps_its_figures():
    events = [
        {"event": "evaluation", "step": 1, "x": 0.25},
        {"event": "evaluation", "step": 2, "scores": {"x": 0.5}},
        {"event": "alert", "x": 7.0},
    ]
    assert reduce_run(record([9.0], events), "x", "eval") == (0.5, 0)


def test_a_score_that_is_infinite_is_shown_as_it_is():
    """A record is strict JSON, so infinity stands there as text."""
    events = [{"event": "evaluation", "step": 1, "scores": {"x": "inf", "y": "nan"}}]
    assert reduce_run(record([9.0], events), "x", "eval") == (math.inf, 0)
    assert math.isnan(reduce_run(record([9.0], events), "y", "eval")[0])


def test_a_column_nobody_logged_reduces_to_nothing():
    for how in (
        "min",
        "max",
        "sum",
        "last",
        "mean_last_100",
        "count_nonfinite",
        "eval",
    ):
        assert math.isnan(reduce_run(record([1.0]), "y", how)[0])


def test_an_unknown_reduction_is_refused():
    with pytest.raises(ValueError, match="how must be one of"):
        reduce_run(record([1.0]), "x", "median")


@given(st.lists(floats, min_size=1, max_size=5), st.integers(1, 6))
def test_a_cell_survives_strict_json(values, digits):
    cell = Cell(tuple(values), (0,) * len(values), digits)
    text = json.dumps(cell.as_json(), allow_nan=False)
    again = Cell.from_json(json.loads(text))
    np.testing.assert_array_equal(again.values, cell.values)
    assert (again.non_finite, again.digits) == (cell.non_finite, cell.digits)


@given(st.floats(-1e300, 1e300), st.integers(1, 8))
def test_a_shown_number_reads_back_to_its_digits(value, digits):
    text = show(value, digits).replace("\N{MINUS SIGN}", "-")
    np.testing.assert_allclose(float(text), value, rtol=0.51 * 10.0 ** (1 - digits))
    assert len(text) <= digits + 8


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_a_share_that_is_not_zero_never_reads_as_zero(part, whole):
    part = min(part, whole)
    assert (share(part, whole) == "0 %") == (part == 0)
    assert (share(part, whole) == "100 %") == (part == whole)


def test_one_seed_is_shown_as_its_value():
    assert Cell((0.125,), (0,)).lines() == ("0.125", "", "")


def test_a_cell_without_a_finite_seed_shows_what_it_was():
    assert Cell((-math.inf, math.nan), (4, 4)).lines() == (
        "\N{MINUS SIGN}inf",
        "",
        "4 not finite",
    )
