"""From columns to the numbers of a table: reductions, medians over seeds, text."""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from stabjax.run.page_records import Column, RunRecord, as_number

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
REDUCTIONS = ("min", "max", "last", "mean_last_100", "sum", "count_nonfinite", "eval")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a summary table: a reduced column, seed by seed.

    Attributes:
        values: One value per seed; NaN where the seed has none.
        non_finite: Steps per seed whose value was NaN or infinite.
        digits: Significant digits shown.
    """

    values: tuple[float, ...]
    non_finite: tuple[int, ...]
    digits: int = 3

    @property
    def finite(self) -> list[float]:
        """The values that are finite."""
        return [value for value in self.values if math.isfinite(value)]

    @property
    def median(self) -> float:
        """The median of the finite values; NaN if there is none."""
        ordered, count = sorted(self.finite), len(self.finite)
        if not count:
            return math.nan
        # Halved before they are added: two huge values must not overflow.
        return 0.5 * ordered[(count - 1) // 2] + 0.5 * ordered[count // 2]

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest finite value."""
        if not self.finite:
            return math.nan, math.nan
        return min(self.finite), max(self.finite)

    def lines(self) -> tuple[str, str, str]:
        """Return the cell's three texts: value, range over seeds, non-finite note."""
        if not self.values:
            return NOTHING, "", ""
        low, high = self.range
        if not self.finite:
            return show(self.values[0], self.digits), "", self._note()
        if not low < high:
            return show(self.median, self.digits), "", self._note()
        value, *ends = show_together([self.median, low, high], self.digits)
        return value, f"[{ends[0]}, {ends[1]}]", self._note()

    def _note(self) -> str:
        """Count the seeds, else the steps, whose value was not finite."""
        lost = len(self.values) - len(self.finite)
        if lost and self.finite:
            return f"{lost} of {len(self.values)} seeds not finite"
        if not any(self.non_finite):
            return ""
        low, high = min(self.non_finite), max(self.non_finite)
        count = f"{low}" if low == high else f"{low} to {high}"
        return f"{count} not finite"

    @classmethod
    def from_json(cls, value: Any) -> "Cell":
        """Rebuild a cell written by `as_json`; an empty one from anything else."""
        if not isinstance(value, dict) or not isinstance(value.get("values"), list):
            return cls((), ())
        numbers = [as_number(number) for number in value["values"]]
        lost = [as_number(number) for number in value.get("non_finite") or []]
        digits = as_number(value.get("digits")) or 3.0
        return cls(
            values=tuple(math.nan if number is None else number for number in numbers),
            non_finite=tuple(int(n) for n in lost if n is not None and n < math.inf),
            digits=int(digits) if 1 <= digits <= 15 else 3,
        )

    def figures(self) -> dict[str, float]:
        """Return median, min and max of the finite values, NaN where there is none."""
        low, high = self.range
        return {"median": self.median, "min": low, "max": high}

    def as_json(self) -> dict[str, Any]:
        """Return the cell as strict JSON."""
        figures = self.figures()
        return {
            "values": [json_number(value) for value in self.values],
            "non_finite": list(self.non_finite),
            **{name: json_number(value) for name, value in figures.items()},
            "digits": self.digits,
        }


def reduce_run(run: RunRecord, column: str, how: str) -> tuple[float, int]:
    """Reduce one column of a run to a number.

    Min, max, sum and the mean over the last 100 steps are over the finite values;
    what is not finite is counted, never dropped silently. ``last`` is the last value
    whatever it is, ``eval`` the last evaluation's figure of that name.

    Args:
        run: The run.
        column: Telemetry column; for ``eval``, a key of the evaluation.
        how: One of `REDUCTIONS`.

    Returns:
        The value (NaN where there is none) and the number of non-finite steps.

    Raises:
        ValueError: If ``how`` is not one of `REDUCTIONS`.
    """
    if how not in REDUCTIONS:
        raise ValueError(f"reduce_run: how must be one of {REDUCTIONS}, got {how!r}.")
    if how == "eval":
        return last_evaluation(run).get(column, math.nan), 0
    full = run.column(column)
    lost = len(full.non_finite_steps)
    if how == "count_nonfinite":
        return (float(lost) if len(full.values) else math.nan), 0
    if how == "last":
        return (float(full.values[-1]) if len(full.values) else math.nan), lost
    return _reduce(full, how), lost


def _reduce(full: Column, how: str) -> float:
    values = full.finite.values
    if how == "mean_last_100" and len(full.steps):
        values = full.values[full.steps > full.steps[-1] - 100]
        values = values[np.isfinite(values)]
    if not len(values):
        return math.nan
    reductions = {"min": np.min, "max": np.max, "sum": np.sum, "mean_last_100": np.mean}
    return float(reductions[how](values))


def last_evaluation(run: RunRecord) -> dict[str, float]:
    """Return the figures of the run's last evaluation; empty if it had none."""
    for event in reversed(run.events):
        if "evaluation" in (event.get("event"), event.get("kind"), event.get("type")):
            return evaluation_figures(event)
    return {}


def evaluation_figures(event: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of one evaluation event, wherever it nests them."""
    found: dict[str, float] = {}
    for name, value in event.items():
        if isinstance(value, dict):
            found.update(evaluation_figures(value))
        elif name not in ("step", "time"):
            number = as_number(value)
            if number is not None:
                found[name] = number
    return found


def show(value: float, digits: int = 3) -> str:
    """Write a number the way the tables do: short, with a true minus sign.

    Args:
        value: Any float.
        digits: Significant digits; at least 1. Whole numbers below a million are
            written in full.

    Example:
        >>> show(0.08125), show(1234567.0), show(2247.6), show(351.0)
        ('0.0813', '1.23e6', '2248', '351')
    """
    if math.isnan(value):
        return "nan"
    if math.isinf(value):
        return "inf" if value > 0 else f"{MINUS}inf"
    if value == int(value) and abs(value) < 1e6:
        text = f"{int(value)}"
    elif abs(value) >= 1e5 or abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        size = math.floor(math.log10(abs(value)))
        text = f"{value:.{max(0, digits - 1 - size)}f}"
    return text.replace("-", MINUS)


def show_together(values: list[float], digits: int = 3) -> list[str]:
    """Write numbers of like size with the same number of decimals.

    Example:
        >>> show_together([0.09, 0.08, 0.1])
        ['0.090', '0.080', '0.100']
    """
    sizes = [math.floor(math.log10(abs(value))) for value in values if value]
    whole = all(value == int(value) for value in values)
    alike = (
        sizes and max(sizes) - min(sizes) <= 1 and -3 <= min(sizes) <= max(sizes) < 5
    )
    if whole or not alike:
        return [show(value, digits) for value in values]
    decimals = max(0, digits - 1 - max(sizes))
    return [f"{value:.{decimals}f}".replace("-", MINUS) for value in values]


def json_number(value: float) -> float | str:
    """Return ``value`` as strict JSON can hold it: NaN and infinities as text."""
    if math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")


def share(part: int, whole: int) -> str:
    """Write a share of steps in percent; a share that is not zero never reads 0 %."""
    if not whole:
        return NOTHING
    percent = 100.0 * part / whole
    if percent in (0.0, 100.0):
        return f"{percent:.0f} %"
    if percent < 1.0:
        return f"{percent:.1f} %" if percent >= 0.1 else "< 0.1 %"
    return f"{percent:.0f} %" if percent <= 99.4 else "> 99 %"


def column_values(runs: list[RunRecord], name: str) -> Float[np.ndarray, " n"]:
    """Return a column's values of all runs together."""
    return np.concatenate([run.column(name).values for run in runs] or [np.zeros(0)])
