"""What a model hands to the runner: how to start, feed, step and judge a run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Reduce", "Summary", "Task"]

Reduce = Literal[
    "min", "max", "last", "mean_last_100", "sum", "count_nonfinite", "eval"
]


@dataclass(frozen=True)
class Task:
    """A run, ready to go; the runner needs nothing else from a model.

    Attributes:
        train: The compiled step, with its guards.
        init: Key to a fresh train state (parameters and model state included).
        batch_at: Position [batches] to a batch of numpy arrays; a pure function of
            the position and the task's seed, so resuming needs no data state.
        evaluate: Train state to named scores; run on the host, outside the step.
        artifacts: Train state to what the run leaves besides figures: file name to
            text or bytes. Written once, at the end; the pages show every ``.svg``
            among them (see `stabjax.models.drawing.standalone_svg`).
        follow: Rows of the whole run so far to what a person follows while it trains:
            a text for the terminal, and further artifacts by file name. Asked again
            after every window of telemetry, so its time grows with the run's.
    """

    train: Any
    init: Callable[[Any], Any]
    batch_at: Callable[[int], Any]
    evaluate: Callable[[Any], dict[str, float]]
    artifacts: Callable[[Any], Mapping[str, str | bytes]] | None = None
    follow: (
        Callable[[Sequence[Mapping[str, Any]]], tuple[str, Mapping[str, str]]] | None
    ) = None


@dataclass(frozen=True)
class Summary:
    """One column of the comparison table.

    Attributes:
        title: Heading of the column.
        column: Telemetry column, or a key of `Task.evaluate`'s answer for "eval".
        reduce: How a run's rows become one number; non-finite values are left out
            of "min", "max", "mean_last_100" and "sum", and counted by
            "count_nonfinite".
        digits: Significant digits shown.
        baseline: What anyone gets, or a fact of the data: shown beside a score, and
            no ground to tell arms apart by.
    """

    title: str
    column: str
    reduce: Reduce
    digits: int = 3
    baseline: bool = False
