"""The rows that the structural decoder sees: centered, with what came before them."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float32

from stabjax.models.causal.dataset import Dataset, Part
from stabjax.models.causal.regression import covariance
from stabjax.models.causal.structural_config import Structural

__all__ = ["Rows", "load_rows", "structural_batch"]


class Rows(NamedTuple):
    """Rows of one part of a table.

    Attributes:
        values: Centered by the means of the training rows; what is missing holds the
            filling of the data set, centered alike.
        observed: False where missing; such a cell is no target, but does explain.
        past: The rows before each, the latest first [rows, lags, nodes].
    """

    values: Float32[np.ndarray, "rows nodes"]
    observed: Bool[np.ndarray, "rows nodes"]
    past: Float32[np.ndarray, "rows lags nodes"]


def load_rows(dataset: Dataset, part: Part, lags: int) -> Rows:
    """Return the rows of a part whose ``lags`` predecessors are in that part too.

    Raises:
        ValueError: If there are not two of them, or a column was never observed.
    """
    inside = np.zeros(len(dataset.values), bool)
    inside[dataset.rows(part)] = True
    usable = inside.copy()
    for lag in range(1, lags + 1):
        usable[lag:] &= inside[:-lag]
        usable[:lag] = False
    places = np.flatnonzero(usable)
    if len(places) < 2:
        raise ValueError(
            f"load_rows: the {part} part must have two rows with {lags} rows before "
            f"them, got {len(places)}; lower model.structural.lags."
        )
    center = _means(dataset)
    before = places[:, None] - np.arange(1, lags + 1)
    return Rows(
        values=(dataset.values[places] - center).astype(np.float32),
        observed=dataset.observed[places],
        past=(dataset.values[before] - center).astype(np.float32),
    )


def _means(dataset: Dataset) -> np.ndarray:
    train = dataset.rows("train")
    values, observed = dataset.values[train].astype(float), dataset.observed[train]
    total = np.maximum(observed.sum(axis=0), 1)
    return np.where(observed, values, 0.0).sum(axis=0) / total


def structural_batch(
    rows: Rows, config: Structural, *, seed: int, position: int
) -> dict[str, np.ndarray]:
    """Return what a step sees; the same every time unless rows are drawn.

    Args:
        rows: The training rows.
        config: Which rows, and whether their second moments are enough.
        seed: Draws the rows.
        position: Index of the step.
    """
    drawn = min(config.rows_per_step, len(rows.values))
    if drawn:
        rng = np.random.default_rng((seed, position))
        taken = rng.choice(len(rows.values), drawn, replace=False)
        rows = Rows(*(array[taken] for array in rows))
    if not (drawn or config.lags or config.needs_rows) and rows.observed.all():
        return {"moments": covariance(rows.values).astype(np.float32)}
    batch = {"values": rows.values, "observed": rows.observed.astype(np.float32)}
    if config.lags:
        batch["past"] = rows.past
    return batch
