"""No guard refuses for ever, and none trips on what is flat."""

import numpy as np
import pytest
from helpers import judge_series, quiet

from stabjax.guards import GUARDS
from stabjax.types import Alert

NAMES = sorted(GUARDS)
# Refusals in a row that the guard's docstring allows after a lasting shift.
BOUND = {"skip_spikes": 3}
BUSY = Alert.CLIPPED | Alert.LOSS_SPIKE | Alert.GRADIENT_SPIKE | Alert.UPDATE_SPIKE


@pytest.mark.parametrize("name", NAMES)
def test_a_lasting_shift_is_accepted_within_the_documented_bound(name):
    noise = np.random.default_rng(0).lognormal(sigma=0.1, size=200)
    level = noise * np.where(np.arange(200) < 100, 1.0, 20.0)
    trace = judge_series(quiet(name), loss=level, grad_norm=level)
    assert trace.accepted[:100].all()
    assert trace.accepted[100 + BOUND.get(name, 0) :].all()


@pytest.mark.parametrize("level", [0.0, 1e-8, 1.0, 1e5])
@pytest.mark.parametrize("name", NAMES)
def test_a_flat_series_with_rounding_noise_never_trips(name, level):
    series = np.full(400, level)
    series[200:] *= 1 + 1e-6 * np.cos(np.arange(200))
    trace = judge_series(quiet(name), loss=series, grad_norm=series, update_norm=series)
    assert trace.accepted.all()
    assert not (trace.alerts & int(BUSY)).any()


@pytest.mark.parametrize("name", NAMES)
def test_a_streak_of_nan_ends_with_the_nan_or_in_a_documented_halt(name):
    series = np.ones(100)
    series[20:25] = np.nan
    trace = judge_series(quiet(name), loss=series, grad_norm=series)
    assert (~trace.accepted).nonzero()[0].tolist() == [20, 21, 22, 23, 24]


@pytest.mark.parametrize("name", NAMES)
def test_a_guard_forgets_nothing_it_learned_before_a_nan(name):
    series = np.random.default_rng(1).lognormal(sigma=0.2, size=60)
    gaps = np.insert(series, [3, 3, 30], [np.nan, np.inf, -np.inf])
    clean = judge_series(quiet(name), loss=series, grad_norm=series)
    mixed = judge_series(quiet(name), loss=gaps, grad_norm=gaps)
    kept = np.isfinite(gaps)
    if name != "back_off":
        np.testing.assert_array_equal(mixed.update_scale[kept], clean.update_scale)
    np.testing.assert_array_equal(mixed.gradient_scale[kept], clean.gradient_scale)
    np.testing.assert_array_equal(mixed.accepted[kept], clean.accepted)
