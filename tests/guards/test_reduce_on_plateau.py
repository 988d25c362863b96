"""The plateau is torch's, and right where torch and optax are not."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import judge_series
from hypothesis import given, settings
from hypothesis import strategies as st

from stabjax.guards import reduce_on_plateau, skip_large
from stabjax.types import Alert


def plateau_of_torch(values, options):
    """Return the scale after each value, restated from torch's documentation."""
    better, scale, bad, cooldown, scales = None, 1.0, 0, 0, []
    sign = 1.0 if options["mode"] == "min" else -1.0
    for value in sign * np.asarray(values, np.float64):
        margin = options["threshold"]
        if better is not None and options["threshold_mode"] == "rel":
            margin *= abs(better)
        if better is None or value < better - margin:
            better, bad = value, 0
        else:
            bad += 1
        if cooldown > 0:
            cooldown, bad = cooldown - 1, 0
        if bad > options["patience"]:
            lower = max(scale * options["factor"], options["min_scale"])
            scale = lower if scale - lower > options["min_change"] else scale
            cooldown, bad = options["cooldown"], 0
        scales.append(scale)
    return np.asarray(scales)


OPTIONS = [
    {"mode": m, "threshold_mode": t, "patience": p, "cooldown": c} | rest
    for (m, t, p, c), rest in zip(
        [
            ("min", "rel", 0, 0),
            ("min", "rel", 1, 2),
            ("min", "abs", 0, 3),
            ("min", "abs", 2, 0),
            ("max", "rel", 0, 1),
            ("max", "rel", 3, 0),
            ("max", "abs", 1, 1),
            ("max", "abs", 2, 2),
        ],
        [
            {"factor": 0.5, "threshold": 0.0, "min_scale": 0.0, "min_change": 1e-8},
            {"factor": 0.1, "threshold": 0.25, "min_scale": 0.05, "min_change": 0.0},
            {"factor": 0.5, "threshold": 0.5, "min_scale": 0.2, "min_change": 0.1},
            {"factor": 0.9, "threshold": 0.125, "min_scale": 0.0, "min_change": 0.05},
        ]
        * 2,
        strict=True,
    )
]
each = functools.partial(reduce_on_plateau, accumulation_size=1)
GUARDS = [each(**options) for options in OPTIONS]


@pytest.mark.parametrize("which", range(len(OPTIONS)))
@settings(max_examples=25)
@given(values=st.lists(st.integers(0, 24), min_size=40, max_size=40))
def test_every_trace_of_scales_is_that_of_torch(which, values):
    values = np.asarray(values) / 4.0  # Exact in float32, with many ties.
    trace = judge_series(GUARDS[which], loss=values)
    exact = plateau_of_torch(values, OPTIONS[which])
    np.testing.assert_allclose(trace.update_scale, exact, rtol=1e-5)
    lowered = np.diff(exact, prepend=1.0) < 0
    assert (trace.alerts == np.where(lowered, int(Alert.PLATEAU), 0)).all()
    assert trace.state.reductions[-1] == lowered.sum()


def test_a_relative_threshold_is_right_for_negative_losses():
    falling = -1.0 - 0.01 * np.arange(40)
    guard = each(factor=0.5, patience=2, threshold=1e-3)
    assert (judge_series(guard, loss=falling).update_scale == 1.0).all()
    wide = each(factor=0.5, patience=2, threshold=0.05)
    assert judge_series(wide, loss=falling[::-1]).update_scale[-1] < 1.0


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out(mode, value):
    guard = each(factor=0.5, patience=1, mode=mode)
    losses = np.tile([3.0, 2.0, 4.0, 2.0, 3.0], 4)
    gaps = np.insert(losses, [0, 3, 3, 10], value)
    mixed = judge_series(guard, loss=gaps)
    clean = judge_series(guard, loss=losses).update_scale
    np.testing.assert_array_equal(mixed.update_scale[np.isfinite(gaps)], clean)
    assert np.isfinite(mixed.state.best[-1])


def test_the_loss_of_a_step_with_a_nan_gradient_is_left_out_too():
    guard = each(factor=0.5, patience=1)
    norms = np.where(np.arange(20) % 2 == 1, np.nan, 1.0)
    losses = np.where(np.isnan(norms), 9.0, 10.0 - 0.4 * np.arange(20))
    assert (judge_series(guard, loss=losses, grad_norm=norms).update_scale == 1).all()


def test_an_accumulated_plateau_is_that_of_the_averages():
    losses = np.asarray([5, 7, 6, 4, 8, 8, 6, 2, 9, 9, 9, 9], np.float64)
    options = OPTIONS[0] | {"threshold": 0.0}
    guard = reduce_on_plateau(**options, accumulation_size=2)
    exact = plateau_of_torch(losses.reshape(-1, 2).mean(axis=1), options)
    ours = judge_series(guard, loss=losses).update_scale
    np.testing.assert_allclose(ours[1::2], exact, rtol=1e-6)


def test_an_average_of_huge_losses_does_not_overflow():
    guard = reduce_on_plateau(patience=0, factor=0.5, mode="max", accumulation_size=4)
    losses = [3e38] * 8 + [1.0] * 4
    trace = judge_series(guard, loss=losses)
    assert (trace.state.averages > 0).sum() == 9
    np.testing.assert_allclose(trace.state.best[-1], 3e38, rtol=1e-6)
    assert all(np.isfinite(trace.state.sum))


def test_a_bfloat16_loss_is_averaged_in_float32():
    losses = np.asarray(jnp.asarray([1.0, 1.0078125] * 50, jnp.bfloat16), np.float32)
    guard = reduce_on_plateau(accumulation_size=100, patience=0)
    best = judge_series(guard, loss=losses).state.best[-1]
    np.testing.assert_allclose(best, 1.00390625, rtol=1e-6)


def test_an_unknown_metric_names_those_there_are():
    expected = r"metric must be one of loss, grad_norm, valid, got 'raw/x'\."
    with pytest.raises(ValueError, match=expected):
        judge_series(reduce_on_plateau(metric="raw/x"), loss=[1.0])


def test_by_default_a_hundred_noisy_steps_are_one_average():
    noise = np.random.default_rng(0).lognormal(sigma=1.0, size=1000)
    trace = judge_series(reduce_on_plateau(), loss=noise)
    assert (trace.update_scale == 1.0).all()
    assert trace.state.averages[-1] == 10


def test_a_refused_step_is_no_average_however_low_its_loss():
    losses, norms = 5.0 - 0.1 * np.arange(20), np.ones(20)
    losses[:2] = 0.0
    guards = (each(patience=2, factor=0.5), skip_large(max_norm=10.0))
    norms[:2] = 100.0
    trace = judge_series(guards, loss=losses, grad_norm=norms)
    assert trace.accepted.tolist() == [False] * 2 + [True] * 18
    assert (trace.update_scale == 1.0).all()
