"""What a run folder says, read so that a broken file costs a note, not the page."""

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float, Int

NON_FINITE = {
    "nan": math.nan,
    "inf": math.inf,
    "+inf": math.inf,
    "-inf": -math.inf,
    "infinity": math.inf,
    "-infinity": -math.inf,
}
# The bits of `stabjax.types.Alert`, lowest first, repeated here because importing them
# imports jax; a test compares the two.
ALERTS = (
    "nonfinite_loss",
    "nonfinite_component",
    "nonfinite_gradient",
    "nonfinite_state",
    "norm_overflow",
    "gradient_range",
    "clipped",
    "loss_spike",
    "gradient_spike",
    "update_spike",
    "plateau",
    "back_off",
    "rollback",
    "halt",
    "accepted_nonfinite",
    "rebased",
    "moments_reset",
    "repaired",
    "update_ratio",
    "saturated",
    "empty",
    "sentinel",
    "trivial",
    "loss_scale",
    "dead_gradient",
    "out_of_range",
    "damaged_before",
)


@dataclasses.dataclass(frozen=True)
class Column:
    """One telemetry column: its values at the steps that logged it, in order."""

    steps: Int[np.ndarray, " n"]
    values: Float[np.ndarray, " n"]

    @property
    def finite(self) -> "Column":
        """The same column without its non-finite steps."""
        keep = np.isfinite(self.values)
        return Column(self.steps[keep], self.values[keep])

    @property
    def non_finite_steps(self) -> Int[np.ndarray, " k"]:
        """The steps whose value is NaN or infinite."""
        return self.steps[~np.isfinite(self.values)]


EMPTY = Column(np.zeros(0, np.int64), np.zeros(0, np.float64))


@dataclasses.dataclass(frozen=True)
class RunRecord:
    """Everything a page needs from one run folder.

    Attributes:
        folder: Where it was read.
        columns: Telemetry columns by name; ``step`` and ``alerts`` are not among them.
        steps: Every step that has a telemetry line, in order.
        alerts: Alert names by step, only steps that raised one.
        events: The lines of events.jsonl, in order.
        config: The effective configuration; empty if it could not be read.
        config_text: The same, as it stands in the file.
        facts: What else the folder says of the run (versions, hardware, outcome).
        problems: One sentence for each thing that could not be read.
    """

    folder: pathlib.Path
    columns: dict[str, Column]
    steps: Int[np.ndarray, " n"]
    alerts: dict[int, tuple[str, ...]]
    events: list[dict[str, Any]]
    config: dict[str, Any]
    config_text: str
    facts: dict[str, Any]
    problems: list[str]

    def column(self, name: str) -> Column:
        """Return the column called ``name``, empty where the run has none."""
        return self.columns.get(name, EMPTY)


def as_number(value: Any) -> float | None:
    """Return the number a telemetry value stands for, or None for text and the like.

    Strict JSON has no NaN, so ``null``, ``"nan"``, ``"inf"`` and ``"-inf"`` are all
    read as what they stand for; ``null`` is NaN.

    Example:
        >>> as_number("-inf"), as_number(True), as_number("fast")
        (-inf, 1.0, None)
    """
    if value is None:
        return math.nan
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, str):
        return NON_FINITE.get(value.strip().lower())
    return None


def read_run(folder: pathlib.Path) -> RunRecord:
    """Read a run folder; whatever is missing or torn becomes a line of ``problems``.

    Args:
        folder: A run folder (config.yaml, health.jsonl, events.jsonl); may be empty.

    Returns:
        The record. Of a step written twice, the last line counts.
    """
    problems: list[str] = []
    gathered: dict[str, tuple[list[int], list[float]]] = {}
    alerts: dict[int, tuple[str, ...]] = {}
    steps: list[int] = []
    for row in _lines(folder / "health.jsonl", problems):
        step = as_number(row.get("step"))
        if step is None or not math.isfinite(step):
            problems.append("health.jsonl: a line without a step is left out.")
            continue
        steps.append(int(step))
        alerts[int(step)] = _alert_names(row.get("alerts"))
        for name, value in row.items():
            number = as_number(value)
            if number is not None and name not in ("step", "alerts"):
                at, values = gathered.setdefault(name, ([], []))
                at.append(int(step))
                values.append(number)
    text, config = _read_config(folder / "config.yaml", problems)
    events = list(_lines(folder / "events.jsonl", problems))
    return RunRecord(
        folder=folder,
        columns={name: _column(*pair) for name, pair in gathered.items()},
        steps=np.unique(np.asarray(steps, np.int64)),
        alerts={step: names for step, names in sorted(alerts.items()) if names},
        events=events,
        config=config,
        config_text=text,
        facts=read_object(folder / "run.json", []),
        problems=list(dict.fromkeys(problems)),
    )


def read_object(path: pathlib.Path, problems: list[str]) -> dict[str, Any]:
    """Read one JSON object; an empty one, and a line in ``problems``, if it is none."""
    if not path.is_file():
        problems.append(f"{path.name} is missing.")
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8", errors="replace"))
    except (ValueError, RecursionError):
        problems.append(f"{path.name} is not valid JSON.")
        return {}
    if not isinstance(value, dict):
        problems.append(f"{path.name} is not a JSON object.")
        return {}
    return value


def _lines(path: pathlib.Path, problems: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON lines file; say how many lines were not one."""
    if not path.is_file():
        problems.append(f"{path.name} is missing.")
        return
    broken, last_broken = 0, False
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            last_broken = not isinstance(value, dict)
            broken += last_broken
            if isinstance(value, dict):
                yield value
    if broken == 1 and last_broken:
        problems.append(
            f"{path.name}: the last line is torn (the run ended while writing it) "
            "and is left out."
        )
    elif broken:
        problems.append(f"{path.name}: {broken} lines are unreadable and left out.")


def _column(steps: list[int], values: list[float]) -> Column:
    """Order a column by step and keep the last value of a step written twice."""
    reverse_steps = np.asarray(steps[::-1], np.int64)
    unique, first = np.unique(reverse_steps, return_index=True)
    return Column(unique, np.asarray(values[::-1], np.float64)[first])


def _alert_names(value: Any) -> tuple[str, ...]:
    """Read alerts written as a bit set, a list of names or ``"a|b"``; lower case."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        bits = [bit for bit in range(max(value, 0).bit_length()) if value >> bit & 1]
        return tuple(
            ALERTS[bit] if bit < len(ALERTS) else f"alert {bit}" for bit in bits
        )
    if isinstance(value, str):
        value = value.replace(",", "|").split("|")
    if not isinstance(value, list):
        return ()
    names = [str(name).strip().lower() for name in value]
    return tuple(name for name in names if name)


def _read_config(path: pathlib.Path, problems: list[str]) -> tuple[str, dict[str, Any]]:
    if not path.is_file():
        problems.append(f"{path.name} is missing.")
        return "", {}
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError:
        problems.append(f"{path.name} is not valid YAML; it is shown as it stands.")
        return text, {}
    return text, config if isinstance(config, dict) else {}
