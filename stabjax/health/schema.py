"""Names of the telemetry columns, and rows read back on the host."""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

# Columns that every step has; the others depend on the loss and the guards.
FLOATS = (
    "loss",
    "grad_norm",
    "update_norm",
    "update_ratio",
    "gradient_scale",
    "update_scale",
)
INTS = (
    "step",
    "accepted",
    "applied_total",
    "refused_total",
    "consecutive_refused",
    "alerts",
    "first_bad_leaf",
    "first_bad_component",
    "nonfinite_elements",
    "halted",
    "rollbacks",
    "update_measured",
)
# Not known before an update was measured.
_OF_UPDATE = ("update_norm", "update_ratio")


@dataclasses.dataclass(frozen=True)
class TelemetrySchema:
    """What the columns of the telemetry ring are called.

    Attributes:
        floats: Names of the float32 columns.
        ints: Names of the int32 columns.
        leaves: Parameter paths that ``first_bad_leaf`` indexes.
        components: Component names that ``first_bad_component`` indexes.
        subjects: For each guard its column of alert bits, such as
            ``metric_range#2/alerts``, and what these are about.
    """

    floats: tuple[str, ...]
    ints: tuple[str, ...]
    leaves: tuple[str, ...]
    components: tuple[str, ...]
    subjects: tuple[tuple[str, str], ...] = ()

    def leaf(self, row: dict[str, Any]) -> str | None:
        """Return the path of the first bad leaf of a row, if it has one."""
        index = row["first_bad_leaf"]
        return self.leaves[index] if index >= 0 else None

    def component(self, row: dict[str, Any]) -> str | None:
        """Return the name of the first bad component of a row, if it has one."""
        index = row["first_bad_component"]
        return self.components[index] if 0 <= index < len(self.components) else None


def decode(
    schema: TelemetrySchema, floats: npt.ArrayLike, ints: npt.ArrayLike
) -> list[dict[str, Any]]:
    """Return the rows of a ring as dictionaries, oldest first.

    Args:
        schema: The names of the columns.
        floats: Ring of float columns, ``[rows, len(schema.floats)]``.
        ints: Ring of int columns, ``[rows, len(schema.ints)]``; a row whose
            ``step`` is negative has not been written.

    Returns:
        One dictionary of Python numbers per written row; NaN stays NaN, and stands
        for the norm of an update that was not measured.
    """
    steps = np.asarray(ints)[:, schema.ints.index("step")]
    rows = []
    for index in np.argsort(steps, kind="stable"):
        if steps[index] < 0:
            continue
        whole = dict(zip(schema.ints, np.asarray(ints)[index].tolist(), strict=True))
        real = dict(zip(schema.floats, np.asarray(floats)[index].tolist(), strict=True))
        if not whole.get("update_measured", True):
            real |= dict.fromkeys(_OF_UPDATE, float("nan"))
        rows.append({**whole, **real})
    return rows
