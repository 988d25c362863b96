"""The ratio of update to parameters stays in its band, or somebody is told."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import batch_of, gradient_with, judge_series, rows_of, run, train_face

from stabjax.guards import update_ratio_band
from stabjax.types import Alert

RATIO, HALT = int(Alert.UPDATE_RATIO), int(Alert.HALT)
BAND = {"low": 1e-4, "high": 1e-2}


@pytest.mark.parametrize("outside", [1e-5, 1e-1])
def test_it_fires_after_so_many_updates_in_a_row_and_stops_with_them(outside):
    ratio = np.full(40, 1e-3)
    ratio[10:13], ratio[20:30] = outside, outside
    trace = judge_series(update_ratio_band(**BAND, patience=4), update_ratio=ratio)
    assert trace.accepted.all()
    assert (trace.update_scale == 1.0).all()
    assert (trace.alerts == RATIO).nonzero()[0].tolist() == list(range(23, 30))


def test_the_two_sides_have_a_patience_each():
    ratio = np.where(np.arange(40) % 2 == 0, 1.0, 1e-6)
    trace = judge_series(update_ratio_band(**BAND, patience=2), update_ratio=ratio)
    assert not trace.alerts.any()


def test_a_ratio_that_is_not_measured_never_fires():
    trace = judge_series(
        update_ratio_band(**BAND, patience=1, action="halt"),
        update_ratio=np.full(20, np.nan),
    )
    assert not trace.alerts.any()
    gaps = np.where(np.arange(20) % 2 == 0, 1.0, np.nan)
    trace = judge_series(update_ratio_band(**BAND, patience=3), update_ratio=gaps)
    # The first value is of a step before any was applied.
    assert (trace.alerts == RATIO).nonzero()[0].tolist() == [6, 8, 10, 12, 14, 16, 18]


def test_the_ratio_of_an_old_update_is_not_judged_again_after_a_refusal():
    norm = np.ones(30)
    norm[10:20] = np.nan
    trace = judge_series(
        update_ratio_band(**BAND, patience=3),
        update_ratio=np.where((np.arange(30) >= 10) & (np.arange(30) < 21), 1.0, 1e-3),
        grad_norm=norm,
    )
    assert not (trace.alerts & RATIO).any()
    assert trace.state.above.max() == 1


def test_it_halts_where_asked():
    ratio = np.where(np.arange(20) < 10, 1e-3, 1.0)
    guard = update_ratio_band(**BAND, patience=3, action="halt")
    trace = judge_series(guard, update_ratio=ratio)
    assert trace.halt.argmax() == 12
    assert trace.alerts[12] == RATIO | HALT


def test_scaling_brings_the_next_update_to_the_upper_end_and_recovers():
    ratio = np.full(60, 1e-3)
    ratio[10:12] = 4e-2
    guard = update_ratio_band(**BAND, patience=2, action="scale", recovery=10)
    scale = judge_series(guard, update_ratio=ratio).update_scale
    growth = 2.0**0.1
    exact = [1.0] * 11 + [0.25 * growth**n for n in range(20)]
    np.testing.assert_allclose(scale[:31], exact, rtol=1e-5)
    assert scale[-1] == 1.0


def test_an_update_that_is_too_small_is_not_scaled():
    guard = update_ratio_band(**BAND, patience=1, action="scale")
    trace = judge_series(guard, update_ratio=np.full(20, 1e-7))
    assert (trace.update_scale == 1.0).all()
    assert (trace.alerts[1:] == RATIO).all()


def test_the_scale_never_falls_below_its_floor():
    guard = update_ratio_band(**BAND, patience=1, action="scale", min_scale=0.1)
    trace = judge_series(guard, update_ratio=np.full(20, 1e30))
    np.testing.assert_allclose(trace.update_scale[1:], 0.1, rtol=1e-6)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_it_bounds_the_measured_ratio_of_a_train_step(form):
    band = {"low": 0.0, "high": 1e-3, "patience": 1, "action": "scale"}
    guards = [update_ratio_band(**band)]
    state = run(
        train_face(guards, form, optax.sign_sgd(0.1), window=16),
        [batch_of(step) for step in range(12)],
    )
    ratios = np.asarray([row["update_ratio"] for row in rows_of(state)])
    assert ratios[1] > 1e-2
    assert (ratios[2:] < 1.1e-3).all()


def test_the_first_ratio_after_a_refusal_is_that_of_the_update_before():
    guards = [update_ratio_band(low=0.0, high=1e-3, patience=1)]
    bad = batch_of(3, gradient=gradient_with(jnp.nan))
    face = train_face(guards, "select", optax.sign_sgd(0.1), window=16)
    rows = rows_of(run(face, [batch_of(0), bad, bad, batch_of(1), batch_of(2)]))
    fired = [bool(row["alerts"] & RATIO) for row in rows]
    assert fired == [False, True, False, False, True]
