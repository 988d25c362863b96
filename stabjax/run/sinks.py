"""Where telemetry rows go: health.jsonl, and TensorBoard if asked for."""

import importlib
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from stabjax.config.errors import ConfigError
from stabjax.run.records import JsonLines


@runtime_checkable
class Sink(Protocol):
    """Takes every row once, in the order of steps."""

    def write(self, row: Mapping[str, Any]) -> None:
        """Take one decoded telemetry row."""
        ...

    def flush(self, *, durable: bool = False) -> None:
        """Hand over what was written."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...


class HealthSink:
    """``health.jsonl``: one strict JSON line per step, each step exactly once.

    It holds no clock, so that a resumed run writes the same bytes as one that was never
    interrupted. Numbers have the fewest digits that read back to the same float32.

    Args:
        lines: The open file.
    """

    def __init__(self, lines: JsonLines):
        self.lines = lines

    def write(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self.lines.write({key: shortest(value) for key, value in row.items()})

    def flush(self, *, durable: bool = False) -> None:
        """Hand over what was written; with ``durable``, to the disk."""
        self.lines.flush(durable=durable)

    def close(self) -> None:
        """Flush and close."""
        self.lines.close()


def shortest(value: Any) -> Any:
    """Return a telemetry float as float32, which `encode` writes in few digits."""
    return np.float32(value) if isinstance(value, float) else value


class TensorBoardSink:
    """TensorBoard event files of every numeric column.

    Args:
        folder: Log directory.
        first_step: Steps from here on are rewritten (a resume).

    Raises:
        ConfigError: If the ``tensorboard`` extra is not installed.
    """

    def __init__(self, folder: pathlib.Path, first_step: int = 0):
        self._writer = _tensorboard().SummaryWriter(
            str(folder), purge_step=first_step or None
        )

    def write(self, row: Mapping[str, Any]) -> None:
        """Add the row's numbers at its step; non-finite ones as they are."""
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, row["step"])

    def flush(self, *, durable: bool = False) -> None:
        """Hand over what was written."""
        del durable
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


def check_tensorboard() -> None:
    """Raise a `ConfigError` now if TensorBoard logging would fail later."""
    _tensorboard()


def _tensorboard() -> Any:
    try:
        return importlib.import_module("tensorboardX")
    except ImportError:
        raise ConfigError(
            "TensorBoard logging needs tensorboardX: pip install 'stabjax[tensorboard]'"
        ) from None


def diverged(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a run ended without training: see the last rows.

    True if the last loss is not finite, or if not one of the last rows was accepted.
    """
    if not rows:
        return False
    refused = not any(row["accepted"] for row in rows)
    return not math.isfinite(rows[-1]["loss"]) or refused
