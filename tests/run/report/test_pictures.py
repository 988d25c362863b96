import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.run.page_records import Column
from stabjax.run.page_ticks import log_ticks, symlog_ticks
from stabjax.run.pictures import Curve, envelope, panel, strip


def column(values, first: int = 0) -> Column:
    values = np.asarray(values, np.float64)
    return Column(np.arange(first, first + len(values)), values)


series = hnp.arrays(np.float64, st.integers(1, 700), elements=st.floats(width=32))


@given(st.lists(series, min_size=1, max_size=3), st.integers(1, 60))
def test_the_envelope_never_loses_an_extreme(many, buckets):
    env = envelope([column(values) for values in many], buckets=buckets)
    finite = np.concatenate([v[np.isfinite(v)] for v in many])
    assert len(env.steps) <= buckets
    assert env.non_finite.sum() == sum((~np.isfinite(v)).sum() for v in many)
    if len(finite):
        assert np.nanmin(env.low) == finite.min()
        assert np.nanmax(env.high) == finite.max()
    known = np.isfinite(env.middle)
    assert (env.low[known] <= env.middle[known]).all()
    assert (env.middle[known] <= env.high[known]).all()


def test_the_envelope_of_few_steps_is_the_series_itself():
    env = envelope([column([3.0, np.nan, 1.0], first=10)])
    assert env.steps.tolist() == [10, 11, 12]
    np.testing.assert_array_equal(env.middle, [3.0, np.nan, 1.0])


def test_no_buckets_are_refused():
    with pytest.raises(ValueError, match="envelope: buckets must be at least 1, got 0"):
        envelope([column([1.0])], buckets=0)


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1.0, 2.0, 9.0], "linear"), (np.geomspace(1e-3, 1e3, 50), "log"),
     (-np.geomspace(1e-2, 1e21, 90), "symlog"), ([0.0, 0.0], "linear"),
     ([np.nan, np.inf], "linear"), ([5.0], "linear"), ([], "linear"),
     (np.geomspace(1e-30, 1e-20, 9) - 1e-25, "symlog"), ([1e308, -1e308], "linear")],
)  # fmt: skip
def test_the_scale_follows_the_spread_of_the_values(values, scale):
    svg, chosen = panel([Curve("a", 0, [column(values)])], identity="x", last_step=9)
    assert chosen == scale
    assert svg.startswith("<svg")
    assert svg.endswith("</svg>")


@settings(max_examples=20)
@given(st.lists(series, min_size=1, max_size=2))
def test_any_series_can_be_drawn(many):
    curves = [Curve(f"{k}", k, [column(v)]) for k, v in enumerate(many)]
    svg, _ = panel(curves, identity="x", last_step=700)
    assert len(svg) < 200_000
    assert "nan" not in svg.lower()


def test_a_picture_takes_every_color_from_the_page():
    many = [column(np.geomspace(1, 1e6, 50) * k) for k in (1, 2)]
    svg, _ = panel(
        [Curve("a", 0, many), Curve("b", 1, many)], identity="x", last_step=50
    )
    assert {"var(--series-0)", "var(--series-1)", "var(--muted)"} <= set(
        re.findall(r"var\(--[a-z0-9-]+\)", svg)
    )
    assert not re.search(r"#[0-9a-f]{6}\b", svg)


def test_non_finite_steps_are_marked_above_the_plot():
    values = np.ones(100)
    plain, _ = panel([Curve("a", 0, [column(values)])], identity="x", last_step=99)
    values[40:60] = np.nan
    marked, _ = panel([Curve("a", 0, [column(values)])], identity="x", last_step=99)
    assert "stroke-width: 3" not in plain
    assert marked.count("stroke-width: 3") == 1


def test_tick_texts_are_not_rounded_away():
    svg, _ = panel([Curve("a", 0, [column([0.021, 0.034])])], identity="x", last_step=2)
    texts = re.findall(r">([\d.]+)</text>", svg)
    assert len(set(texts)) == len(texts) >= 4


@given(st.floats(1e-12, 1e12), st.floats(2.0, 1e20))
def test_log_ticks_are_few_and_some_lie_inside(low, factor):
    ticks = log_ticks(low, low * factor)
    inside = [tick for tick in ticks if low / 10 <= tick <= low * factor * 10]
    assert 1 <= len(inside) <= 14


@given(st.floats(0, 1e30), st.floats(0, 1e30), st.integers(-8, 8))
def test_symlog_ticks_are_few_sorted_and_hold_zero(below, above, exponent):
    ticks = symlog_ticks(-below, above, 10.0**exponent)
    assert 0.0 in ticks
    assert ticks == sorted(ticks)
    assert len(ticks) <= 10


def test_a_single_marked_bucket_is_seen():
    share = np.zeros(200)
    share[70] = 1 / 500
    assert '<rect x="70" width="1" height="1" opacity="0.4"/>' in strip(share)
    assert "<rect" not in strip(np.zeros(200))
