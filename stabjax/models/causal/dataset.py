"""A table cut into windows, split by time, in the units that the model sees."""

import dataclasses
import functools
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from stabjax.models.causal.config import Config
from stabjax.models.causal.table import Table, load_table

__all__ = ["Dataset", "Part", "load_dataset", "training_batch"]

Part = Literal["train", "validation", "test"]
_ENDS = (0.70, 0.85)  # of the windows, in order of time
_EPSILON = 1e-8  # added to a deviation, as the seed does


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Windows of a table; a window is a run of rows that is never copied.

    Attributes:
        names: Of the d columns.
        raw: [rows, d] float64 in the units of the table; NaN where missing.
        values: [rows, d] as the model sees them; what is missing holds a filling.
        observed: [rows, d]; False where missing.
        window: Rows of a window.
        starts: First row of each window, per part.
        center: Per column, ``values = (raw - center) / scale``.
        scale: Per column.
        truth: [cause, effect], or None if the graph is not known.
    """

    names: tuple[str, ...]
    raw: Float[np.ndarray, "rows d"]
    values: Float32[np.ndarray, "rows d"]
    observed: Bool[np.ndarray, "rows d"]
    window: int
    starts: dict[Part, Int[np.ndarray, " windows"]]
    center: Float[np.ndarray, " d"]
    scale: Float[np.ndarray, " d"]
    truth: Bool[np.ndarray, "d d"] | None

    @property
    def nodes(self) -> int:
        """Number of columns."""
        return len(self.names)

    def rows(self, part: Part) -> Int[np.ndarray, " rows_of_part"]:
        """Return the rows that the windows of a part cover, each once, in order."""
        return np.flatnonzero(_coverage(self.starts[part], self.window, len(self.raw)))

    def windows(
        self, starts: Int[np.ndarray, " windows"]
    ) -> tuple[
        Float32[np.ndarray, "windows time d"], Bool[np.ndarray, "windows time d"]
    ]:
        """Return values and what was observed of the windows that start there."""
        rows = starts[:, None] + np.arange(self.window)
        return self.values[rows], self.observed[rows]


def load_dataset(config: Config, *, seed: int) -> Dataset:
    """Load, split and standardize the table of a configuration.

    Windows come in order of time: the first 70 % train, the next 15 % validate, the
    rest test. Center and scale come from the training windows alone:

    - ``before``: none; missing values are 0.
    - ``seed``: missing values are 0 and count as such; mean and deviation per column.
    - ``sound``: mean and deviation of what was observed, per column; missing values
      are then set to 0, which is the mean.
    - ``global``: the mean per column, and one scale, the root of the mean variance,
      for all of them.

    Args:
        config: The model's configuration.
        seed: Draws the synthetic sensors.

    Raises:
        ValueError: If the table is too short for the windows, or a column has no two
            different values to train on.
        FileNotFoundError: If there is no such file.
        ImportError: If the data would need a package that is missing.
    """
    return _cut(load_table(config.data, seed=seed), config)


def training_batch(
    dataset: Dataset, config: Config, *, seed: int, position: int
) -> dict[str, np.ndarray]:
    """Return the windows of a step: each epoch goes through all of them once, mixed.

    The last batch of an epoch is filled up with windows from its start.

    Args:
        dataset: The windows.
        config: Their number per step.
        seed: The run's seed.
        position: Index of the batch, from 0.

    Returns:
        ``values`` and ``observed`` [batch, time, d], and, where it is known, the
        ``truth`` [d, d], all float32.
    """
    epoch, place = divmod(position, steps_per_epoch(dataset, config))
    starts = dataset.starts["train"]
    order = _order(len(starts), seed, epoch)
    taken = np.arange(place * config.batch, (place + 1) * config.batch) % len(starts)
    values, observed = dataset.windows(starts[order[taken]])
    batch = {"values": values, "observed": observed.astype(np.float32)}
    if dataset.truth is not None:
        batch["truth"] = dataset.truth.astype(np.float32)
    return batch


def steps_per_epoch(dataset: Dataset, config: Config) -> int:
    """Return how many batches show every training window at least once."""
    return -(-len(dataset.starts["train"]) // config.batch)


@functools.lru_cache(maxsize=4)
def _order(windows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(windows)


def _cut(table: Table, config: Config) -> Dataset:
    rows = len(table.values)
    starts = _split(config, rows)
    observed = ~np.isnan(table.values)
    filled = np.where(observed, table.values, 0.0)
    weights = _coverage(starts["train"], config.data.window, rows)
    _check_columns(table, observed & (weights > 0)[:, None])
    center, scale = _scaling(config.standardization, filled, observed, weights)
    values = (filled - center) / scale
    if config.standardization in ("sound", "global"):
        values = np.where(observed, values, 0.0)
    return Dataset(
        names=table.names,
        raw=table.values,
        values=values.astype(np.float32),
        observed=observed,
        window=config.data.window,
        starts=starts,
        center=center,
        scale=scale,
        truth=table.truth,
    )


def _split(config: Config, rows: int) -> dict[Part, np.ndarray]:
    data = config.data
    starts = np.arange(0, rows - data.window + 1, data.stride)
    first, second = (int(end * len(starts)) for end in _ENDS)
    parts: dict[Part, np.ndarray] = {
        "train": starts[:first],
        "validation": starts[first:second],
        "test": starts[second:],
    }
    if data.split == "sound" and first:
        # A row that was trained on must not be judged on.
        last = parts["train"][-1] + data.window
        parts["validation"] = parts["validation"][parts["validation"] >= last]
        if len(parts["validation"]):
            last = parts["validation"][-1] + data.window
            parts["test"] = parts["test"][parts["test"] >= last]
    empty = [name for name, part in parts.items() if not len(part)]
    if empty:
        raise ValueError(
            f"load_dataset: the table must have rows for windows of {data.window} in "
            f"every part, got {rows} rows and none for {empty[0]}."
        )
    return parts


def _check_columns(table: Table, counted: np.ndarray) -> None:
    """Refuse a column without two different values to train on."""
    for place, name in enumerate(table.names):
        values = table.values[counted[:, place], place]
        if len(np.unique(values)) < 2:
            got = f"{values[0]:g} alone" if len(values) else "none"
            raise ValueError(
                f"load_dataset: column {name!r} must hold different values in the "
                f"training windows, got {got}; leave it out by model.data.columns."
            )


def _coverage(starts: np.ndarray, window: int, rows: int) -> np.ndarray:
    """Return in how many of the windows each row lies."""
    change = np.zeros(rows + 1, np.int64)
    np.add.at(change, starts, 1)
    np.add.at(change, starts + window, -1)
    return np.cumsum(change)[:rows]


def _scaling(
    setting: str, filled: np.ndarray, observed: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return center and scale per column, each row weighing as often as it is seen."""
    columns = filled.shape[1]
    if setting == "before":
        return np.zeros(columns), np.ones(columns)
    counts = np.where(observed, weights[:, None], 0).astype(float)
    if setting == "seed":
        counts = np.broadcast_to(weights[:, None].astype(float), filled.shape)
    total = counts.sum(axis=0)
    center = (counts * filled).sum(axis=0) / total
    variance = (counts * (filled - center) ** 2).sum(axis=0) / total
    if setting == "global":
        variance = np.full(columns, variance.mean())
    return center, np.sqrt(variance) + _EPSILON
