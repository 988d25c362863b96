"""What a finished run hands back."""

import dataclasses
import pathlib
from typing import Any


@dataclasses.dataclass(frozen=True)
class RunResult:
    """What a finished run leaves.

    Attributes:
        folder: The run folder.
        steps: Steps attempted since the start of the run.
        state: The final train state.
        evaluation: Scores of the last evaluation.
        alerts: Alert name to the number of steps that raised it.
        seconds: Wall-clock time of this process's part [s].
        diverged: The last loss was not finite, or no step of the last window was
            applied: finished, but not trained.
    """

    folder: pathlib.Path
    steps: int
    state: Any
    evaluation: dict[str, float]
    alerts: dict[str, int]
    seconds: float
    diverged: bool
