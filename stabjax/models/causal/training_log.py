"""The seed's health log: one entry per epoch, every key measured, none defaulted.

The original read its log with ``metrics.get("edge_count", 0)``. No such key was ever
written, so it logged zero edges whatever the graph was. Here an entry cannot be made
without all its fields, and one read back without a key is an error.
"""

import dataclasses
import json
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from stabjax.health import decode
from stabjax.models.causal.objective import COMPONENTS

__all__ = [
    "Epoch",
    "EpochClock",
    "epoch_of",
    "first_learning_rate",
    "read_training_log",
]

# The seed's names of the components, in the order of `COMPONENTS`.
_SEED_NAMES = ("recon", "sparse", "acyclic", "disen")
_PREFIX = "train_loss_components/"


@dataclasses.dataclass(frozen=True)
class Epoch:
    """One entry, with the seed's keys.

    Attributes:
        epoch: Epochs done; not whole where the run ended within one.
        train_loss: Mean over the steps of the epoch.
        train_loss_components: The same of every raw component, by the seed's names.
        val_f1: F1 of the graph; NaN if the true graph is not known.
        val_shd: Entries of the graph that differ from the true one; NaN likewise.
        edge_count: Entries above the threshold.
        grad_clip_ratio: Share of steps whose gradient a guard scaled down; NaN in a
            run without guards, where nobody counts.
        learning_rate: Of the last step, the plateau's factor included.
        best_threshold: On the adjacency.
        epoch_time: Wall-clock time [s]; NaN if it began in another process.
        grad_norm: Mean global gradient norm before any clip. Not in the seed's log.
        norm_above_one: Share of steps with a norm above 1. Not in the seed's log.
    """

    epoch: float
    train_loss: float
    train_loss_components: dict[str, float]
    val_f1: float
    val_shd: float
    edge_count: float
    grad_clip_ratio: float
    learning_rate: float
    best_threshold: float
    epoch_time: float
    grad_norm: float
    norm_above_one: float

    def as_scores(self) -> dict[str, float]:
        """Return the entry as a flat mapping, for `Task.evaluate`."""
        scores = dataclasses.asdict(self)
        components = scores.pop("train_loss_components")
        return scores | {_PREFIX + name: x for name, x in components.items()}

    @classmethod
    def of_scores(cls, scores: Mapping[str, Any]) -> "Epoch":
        """Read an entry back.

        Raises:
            KeyError: If a key is missing; there are no defaults.
        """
        components = {name: float(scores[_PREFIX + name]) for name in _SEED_NAMES}
        plain = {
            field.name: float(scores[field.name])
            for field in dataclasses.fields(cls)
            if field.name != "train_loss_components"
        }
        return cls(train_loss_components=components, **plain)


def epoch_of(
    state: Any, *, steps: int, guarded: bool, rate: float, seconds: float, graph: Any
) -> Epoch:
    """Return the entry of the last ``steps`` steps, from the telemetry of the state.

    Args:
        state: Train state; its ring must hold at least ``steps`` rows.
        steps: Steps of an epoch.
        guarded: Whether the step has guards, so that clipping is counted.
        rate: Learning rate at the start, see `first_learning_rate`.
        seconds: How long the epoch took [s], or NaN.
        graph: `GraphScore` of the present parameters.

    Raises:
        KeyError: If a column is missing.
        ValueError: If no step was taken yet.
    """
    ring = state.telemetry
    rows = decode(ring.schema, np.asarray(ring.floats), np.asarray(ring.ints))[-steps:]
    if not rows:
        raise ValueError("epoch_of: state must have taken a step, got none.")
    norms = _column(rows, "grad_norm")
    scaled = np.mean(_column(rows, "gradient_scale") < 1.0)
    return Epoch(
        epoch=(rows[-1]["step"] + 1) / steps,
        train_loss=float(np.mean(_column(rows, "loss"))),
        train_loss_components={
            name: float(np.mean(_component(rows, component)))
            for name, component in zip(_SEED_NAMES, COMPONENTS, strict=True)
        },
        val_f1=float(graph.f1),
        val_shd=float(graph.shd),
        edge_count=float(graph.edges),
        grad_clip_ratio=float(scaled) if guarded else math.nan,
        learning_rate=rate * rows[-1]["update_scale"],
        best_threshold=float(graph.threshold),
        epoch_time=seconds,
        grad_norm=float(np.mean(norms)),
        norm_above_one=float(np.mean(norms > 1.0)),
    )


def read_training_log(folder: str | os.PathLike) -> list[Epoch]:
    """Return the entries of a run folder, one per evaluation.

    Train with ``train.evaluate_every`` set to the steps of an epoch.

    Raises:
        KeyError: If an evaluation lacks a key.
    """
    lines = (pathlib.Path(folder) / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [Epoch.of_scores(e["scores"]) for e in events if e["event"] == "evaluation"]


class EpochClock:
    """How long an epoch took; told of each batch as it is asked for.

    Args:
        steps: Steps of an epoch.
    """

    def __init__(self, steps: int):
        self._steps = steps
        self._began: dict[int, float] = {}

    def see(self, position: int) -> None:
        """Note the time if the batch at ``position`` is the first of an epoch."""
        epoch, place = divmod(position, self._steps)
        if place == 0:
            self._began = {epoch: time.monotonic()}

    def seconds(self, done: int) -> float:
        """Return the time since the epoch of the last of ``done`` steps began [s].

        NaN if it began elsewhere: before a resume, or under another clock.
        """
        began = self._began.get((done - 1) // self._steps)
        return math.nan if began is None else time.monotonic() - began


def first_learning_rate(optimizer: optax.GradientTransformation) -> float:
    """Return the size of the first update of a zero parameter under a unit gradient.

    That is the learning rate of SGD, Adam and their relatives, weight decay or not,
    measured rather than copied from a configuration. Of a schedule it is the value at
    the first step; of what does not move one parameter by itself it is something else.

    Example:
        >>> round(first_learning_rate(optax.adam(5e-4)), 7)
        0.0005
    """
    params = jnp.zeros((1,), jnp.float32)
    whole = optax.with_extra_args_support(optimizer)
    update, _ = whole.update(
        jnp.ones_like(params), whole.init(params), params, value=jnp.float32(1.0)
    )
    return float(jnp.max(jnp.abs(jnp.asarray(update))))


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows], float)


def _component(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    # A term of weight zero is reported as inactive, and is still measured.
    known = f"raw/{name}" if f"raw/{name}" in rows[0] else f"inactive/{name}"
    return _column(rows, known)
