"""The units the players see: those of the data, or standardized ones."""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float

from stabjax.models.gan.events import Events, Schema

__all__ = ["Scaling", "fit_scaling"]


@dataclasses.dataclass(frozen=True)
class Scaling:
    """A map of features and conditions, and its inverse for features.

    ``(asinh(x / bend) - center) / spread``; without the asinh where ``bend`` is inf.

    Attributes:
        bend: Where the asinh bends, per feature.
        center: Mean of each feature after the asinh.
        spread: Its standard deviation.
        condition_center: Mean of each condition.
        condition_spread: Its standard deviation.
    """

    bend: Float[np.ndarray, " features"]
    center: Float[np.ndarray, " features"]
    spread: Float[np.ndarray, " features"]
    condition_center: Float[np.ndarray, " conditions"]
    condition_spread: Float[np.ndarray, " conditions"]

    def scale(self, events: Events) -> Events:
        """Return events in the players' units; empty slots stay zero."""
        features = (self._bent(events.particles) - self.center) / self.spread
        condition = (events.condition - self.condition_center) / self.condition_spread
        return Events(
            np.where(events.mask[..., None], features, 0.0).astype(np.float32),
            events.mask,
            condition.astype(np.float32),
        )

    def restore(
        self,
        features: Float[np.ndarray, "events capacity features"],
        mask: Bool[np.ndarray, "events capacity"],
    ) -> Float[np.ndarray, "events capacity features"]:
        """Return features in the units of the data; empty slots are zero."""
        bent = features.astype(np.float64) * self.spread + self.center
        finite = np.where(np.isinf(self.bend), 1.0, self.bend)
        with np.errstate(over="ignore"):  # an infinity is for the scores to report
            straight = np.where(np.isinf(self.bend), bent, np.sinh(bent) * finite)
            return np.where(mask[..., None], straight, 0.0).astype(np.float32)

    def _bent(self, features: np.ndarray) -> np.ndarray:
        wide = features.astype(np.float64)
        finite = np.where(np.isinf(self.bend), 1.0, self.bend)
        return np.where(np.isinf(self.bend), wide, np.arcsinh(wide / finite))


def fit_scaling(
    events: Events, schema: Schema, how: Literal["seed", "standardized"]
) -> Scaling:
    """Fit the units to the training events.

    Args:
        events: What is trained on.
        schema: Tells which features have heavy tails: places across the axis, and an
            energy that is not a logarithm.
        how: ``"seed"`` leaves everything in the data's units. ``"standardized"``
            bends heavy tails by an asinh at their median size, and gives every
            feature and condition mean 0 and variance 1.
    """
    features, conditions = len(schema.features), len(schema.conditions)
    bend = np.full(features, np.inf)
    plain = Scaling(
        bend, np.zeros(features), np.ones(features),
        np.zeros(conditions), np.ones(conditions),
    )  # fmt: skip
    if how == "seed":
        return plain
    inside = events.particles[events.mask].astype(np.float64)
    heavy = {*schema.plane} | (set() if schema.energy_is_log10 else {schema.energy})
    for index, name in enumerate(schema.features):
        if name in heavy:
            bend[index] = np.median(np.abs(inside[:, index])) or 1.0
    bent = dataclasses.replace(plain, bend=bend)._bent(inside)
    condition = events.condition.astype(np.float64)
    return Scaling(
        bend=bend,
        center=bent.mean(axis=0),
        spread=_positive(bent.std(axis=0)),
        condition_center=condition.mean(axis=0),
        condition_spread=_positive(condition.std(axis=0)),
    )


def _positive(x: np.ndarray) -> np.ndarray:
    """Return ``x``, and one where it is zero: a constant has no unit of its own."""
    return np.where(x > 0.0, x, 1.0)
