"""The z-score clip is the published one, without its lock-out and its NaN."""

import numpy as np
import pytest
from helpers import judge_series
from hypothesis import given, settings
from hypothesis import strategies as st

from stabjax.guards import zclip
from stabjax.types import Alert

CLIPPED, REBASED = int(Alert.CLIPPED), int(Alert.REBASED)
NEVER = 10**6


def zclip_as_published(norms, threshold=2.5, decay=0.97, warmup=25):
    """Return the clipped norms of arXiv:2504.02507, in float64."""
    clipped, buffer, mean, variance = [], [], None, None
    for norm in norms:
        bounded = norm
        if mean is None:
            buffer.append(norm)
            if len(buffer) == warmup:
                mean, variance = np.mean(buffer), np.var(buffer)
        else:
            z = (norm - mean) / np.sqrt(variance)
            if z > threshold:
                bounded = mean + threshold * np.sqrt(variance) / (z / threshold)
            mean = decay * mean + (1 - decay) * bounded
            variance = decay * variance + (1 - decay) * (bounded - mean) ** 2
        clipped.append(bounded)
    return np.asarray(clipped)


def noise(sigma, shape, seed=0):
    return np.random.default_rng(seed).lognormal(sigma=sigma, size=shape)


@pytest.mark.parametrize("options", [{}, {"threshold": 1.5, "decay": 0.9, "warmup": 5}])
@pytest.mark.parametrize("level", [1e-12, 1e-3, 1.0, 1e6, 1e30])
def test_the_clipped_norms_are_those_of_the_paper(options, level):
    norms = level * noise(0.2, 300)
    norms[[60, 130, 131]] *= 50.0
    trace = judge_series(zclip(**options, rebase_after=NEVER), grad_norm=norms)
    exact = zclip_as_published(norms, **options)
    ours = trace.gradient_scale.astype(np.float64) * norms.astype(np.float32)
    np.testing.assert_allclose(ours, exact, rtol=2e-4)
    assert (trace.alerts == np.where(exact < norms, CLIPPED, 0)).all()
    assert np.sum(exact < norms) >= 3


def test_the_published_clip_never_accepts_a_lasting_rise_and_ours_does():
    norms = noise(0.05, 300) * np.where(np.arange(300) < 100, 1.0, 25.0)
    locked = zclip_as_published(norms)
    assert (locked[100:] < 2.0).all()
    trace = judge_series(zclip(), grad_norm=norms)
    assert trace.alerts[100:120].tolist() == [CLIPPED] * 20
    assert trace.alerts[120] == REBASED
    assert (trace.gradient_scale[120:146] == 1.0).all()
    assert np.mean(trace.gradient_scale[146:]) > 0.99


@pytest.mark.parametrize("at", [0, 3, 24, 25, 80])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_leaves_no_trace_in_the_statistics(at, value):
    norms = noise(0.2, 120)
    clean = judge_series(zclip(), grad_norm=norms)
    mixed = judge_series(zclip(), grad_norm=np.insert(norms, at, value))
    kept = np.arange(121) != at
    np.testing.assert_array_equal(mixed.gradient_scale[kept], clean.gradient_scale)
    for field in ("mean", "deviation", "seen", "streak"):
        left, right = getattr(mixed.state, field), getattr(clean.state, field)
        assert left[-1] == right[-1]


def test_the_norm_of_a_step_with_a_nan_loss_is_not_learned():
    norms, losses = noise(0.2, 60), np.ones(60)
    losses[50] = np.nan
    trace = judge_series(zclip(), grad_norm=norms, loss=losses)
    assert trace.state.mean[50] == trace.state.mean[49]


@pytest.mark.parametrize("level", [1e-30, 1.0, 4096.0, 1e8, 1e35])
@pytest.mark.parametrize("jitter", [0.0, 1e-7, 1e-5])
def test_nearly_constant_norms_are_not_clipped_and_their_spread_is_no_nan(
    level, jitter
):
    norms = level * (1 + jitter * np.random.default_rng(0).normal(size=400))
    trace = judge_series(zclip(), grad_norm=norms)
    assert (trace.gradient_scale == 1.0).all()
    assert (trace.state.deviation >= 0).all()
    norms[300] = 30 * level
    trace = judge_series(zclip(), grad_norm=norms)
    assert (trace.gradient_scale < 1.0).nonzero()[0].tolist() == [300]
    assert np.isfinite(trace.gradient_scale).all()


def test_norms_of_zero_say_nothing_about_the_size_of_a_gradient():
    norms = np.where(np.arange(100) < 50, 0.0, 1.0)
    trace = judge_series(zclip(), grad_norm=norms)
    assert trace.gradient_scale[50] == 1.0


def test_nothing_is_clipped_in_the_warm_up():
    norms = np.where(np.arange(25) == 20, 1e6, 1.0)
    assert (judge_series(zclip(), grad_norm=norms).gradient_scale == 1.0).all()


@settings(max_examples=10)
@given(
    exponents=st.lists(st.floats(-40.0, 36.0), min_size=60, max_size=60),
    holes=st.lists(st.integers(0, 59), max_size=5),
)
def test_scale_and_state_stay_in_range_for_any_series(exponents, holes):
    norms = 10.0 ** np.asarray(exponents)
    norms[holes] = np.nan
    trace = judge_series(zclip(warmup=5), grad_norm=norms)
    assert ((trace.gradient_scale > 0) & (trace.gradient_scale <= 1)).all()
    for field in trace.state:
        assert np.isfinite(field).all()
    assert (trace.state.deviation >= 0).all()


def test_the_share_of_clipped_steps_is_counted():
    norms = np.ones(60)
    norms[[40, 50]] = 100.0
    state = judge_series(zclip(), grad_norm=norms).state
    np.testing.assert_allclose(state.clip_fraction[-1], 2 / 60, rtol=1e-5)
