"""What came of one run: a score, and what the guards did on the way."""

import dataclasses
from typing import Any

import numpy as np

from stabjax.health import TelemetrySchema
from stabjax.types import Alert


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one run.

    Attributes:
        score: Final score, lower is better; None: not finite.
        steps: Attempted steps.
        refused: Steps that were not applied.
        halted: Whether the run was halted.
        rollbacks: How often it went back to a snapshot.
        alerts: Names of the alerts seen, and in how many steps.
        largest_norm: Largest finite gradient norm.
        first_loss: Loss of the first step.
    """

    score: float | None
    steps: int
    refused: int
    halted: bool
    rollbacks: int
    alerts: dict[str, int]
    largest_norm: float
    first_loss: float


class Columns:
    """The telemetry of all steps of a run, by column.

    Args:
        schema: Names of the columns.
        floats: Float columns, ``[steps, floats]``.
        ints: Int columns, ``[steps, ints]``.
    """

    def __init__(
        self, schema: TelemetrySchema, floats: np.ndarray, ints: np.ndarray
    ) -> None:
        self._schema, self._floats, self._ints = schema, floats, ints

    def __getitem__(self, name: str) -> np.ndarray:
        if name in self._schema.floats:
            return self._floats[:, self._schema.floats.index(name)]
        return self._ints[:, self._schema.ints.index(name)]

    def outcome(self, score: Any) -> Outcome:
        """Return what came of the run."""
        refused = self["refused_total"][-1]
        if "optimizer/total_notfinite" in self._schema.ints:
            refused = self["optimizer/total_notfinite"][-1]
        norms = self["grad_norm"]
        return Outcome(
            score=finite_or_none(score),
            steps=len(self._ints),
            refused=int(refused),
            halted=bool(self["halted"][-1] > 0),
            rollbacks=int(self["rollbacks"][-1]),
            alerts=alerts_in(self["alerts"]),
            largest_norm=float(np.max(norms[np.isfinite(norms)], initial=0.0)),
            first_loss=float(self["loss"][0]),
        )


def finite_or_none(value: Any) -> float | None:
    """Return a number as a float, or None if it is not finite."""
    value = float(value)
    return value if np.isfinite(value) else None


def alerts_in(bits: np.ndarray) -> dict[str, int]:
    """Return the names of the alerts in the bit sets of all steps, with counts.

    Example:
        >>> alerts_in(np.array([0, 64, 64]))
        {'clipped': 2}
    """
    counts = {
        str(alert.name).lower(): int(np.sum(bits & alert != 0)) for alert in Alert
    }
    return {name: count for name, count in counts.items() if count}
