"""Synthetic sensors: units of every size over a known linear model."""

import numpy as np
import pytest

from stabjax.models.causal.data_config import Data
from stabjax.models.causal.graphs import is_acyclic
from stabjax.models.causal.metrics import varsortability
from stabjax.models.causal.sensors import draw_sensors
from stabjax.models.causal.synthetic import sample_linear_sem


@pytest.fixture(scope="module")
def drawn():
    return draw_sensors(Data(), seed=0)


def test_the_same_seed_draws_the_same_sensors_and_another_others(drawn):
    again, other = draw_sensors(Data(), seed=0), draw_sensors(Data(), seed=1)
    np.testing.assert_array_equal(drawn.values, again.values)
    assert not np.array_equal(drawn.truth, other.truth)


def test_readings_span_the_units_of_real_sensors(drawn):
    readings = np.where(drawn.values == drawn.code, np.nan, drawn.values)
    largest = np.nanmax(readings, axis=0)
    assert np.nanmin(readings) >= 0.0
    assert largest.max() <= 2775.0
    assert largest.max() > 2000.0
    assert largest.max() / largest.min() > 100.0


def test_the_code_stands_in_the_asked_share_of_cells(drawn):
    assert np.mean(drawn.values == drawn.code) == pytest.approx(0.05, abs=0.01)
    full = draw_sensors(Data(missing_share=0.0), seed=0)
    assert not np.any(full.values == full.code)


def test_the_graph_is_acyclic_and_of_the_asked_size(drawn):
    assert is_acyclic(drawn.truth)
    assert drawn.truth.sum() == 13
    np.testing.assert_array_equal(drawn.truth, drawn.weights != 0.0)


def test_readings_are_the_linear_model_up_to_unit_and_offset():
    data = Data(missing_share=0.0, rows=4000)
    sensors = draw_sensors(data, seed=3)
    fresh = sample_linear_sem(
        sensors.weights, 4000, np.random.default_rng(9), noise=data.noise
    )
    np.testing.assert_allclose(
        np.corrcoef(sensors.values.T), np.corrcoef(fresh.T), atol=0.08
    )


def test_units_hide_the_order_that_the_variances_of_the_model_give_away():
    hidden, plain = [], []
    for seed in range(10):
        sensors = draw_sensors(Data(missing_share=0.0), seed=seed)
        rows = sample_linear_sem(sensors.weights, 1400, np.random.default_rng(seed))
        hidden.append(varsortability(sensors.values, sensors.truth))
        plain.append(varsortability(rows, sensors.truth))
    assert np.mean(plain) > 0.9
    assert 0.3 < np.mean(hidden) < 0.7
