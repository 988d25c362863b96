"""Synthetic sensors: a linear model of a known graph, in units of every size.

What makes real sensor tables hard on a network is kept: columns of few and of
thousands, offsets, and a code where a value is missing.
"""

from typing import NamedTuple

import numpy as np

from stabjax.models.causal.data_config import Data
from stabjax.models.causal.synthetic import (
    random_dag,
    random_weights,
    sample_linear_sem,
)

__all__ = ["Sensors", "draw_sensors"]

_CODE = -200.0
_LARGEST = 2775.0  # as in the seed's data
_UNITS = (0.3, 1000.0)  # largest reading of a sensor, before the largest is set


class Sensors(NamedTuple):
    """What the sensors read.

    Attributes:
        names: Of the sensors.
        values: [rows, sensors], all >= 0 but for the code.
        code: Stands for a missing value.
        truth: True where the row's sensor causes the column's, [sensors, sensors].
        weights: Of the linear equations before units.
    """

    names: tuple[str, ...]
    values: np.ndarray
    code: float
    truth: np.ndarray
    weights: np.ndarray


def draw_sensors(data: Data, seed: int) -> Sensors:
    """Draw a graph, its weights, rows of data, units and gaps.

    ``x = x W + noise`` with |W| in [.5, 2], then ``reading = offset + unit x``: each
    sensor reads from somewhere above 0 up to between 0.3 and 1000 (log-uniform), and
    one of them up to 2775. Units are no part of the causes, so the variance of a raw
    column says nothing of its place in the order.

    Args:
        data: Sizes and kinds.
        seed: Of all that is drawn.
    """
    rng = np.random.default_rng((seed, 1))
    truth = random_dag(data.nodes, data.edges_per_node, rng, kind=data.graph)
    weights = random_weights(truth, rng)
    rows = sample_linear_sem(weights, data.rows, rng, noise=data.noise)
    largest = np.exp(rng.uniform(np.log(_UNITS[0]), np.log(_UNITS[1]), data.nodes))
    largest[rng.integers(data.nodes)] = _LARGEST
    floor = rng.uniform(0.0, 0.5, data.nodes)  # share of the range below the least
    low, high = rows.min(axis=0), rows.max(axis=0)
    shares = floor + (1.0 - floor) * (rows - low) / (high - low)
    values = largest * shares
    gaps = rng.random(values.shape) < data.missing_share
    names = tuple(f"sensor {n + 1}" for n in range(data.nodes))
    return Sensors(names, np.where(gaps, _CODE, values), _CODE, truth, weights)
