"""What a person sees of the losses while the machine trains."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["loss_lines"]

_EVERY = 10
_LINES = 5
_NAMES = ("diffusion", "ce", "mcmc", "hebbian", "predictive")


def loss_lines(
    rows: Sequence[Mapping[str, Any]],
) -> tuple[str, Mapping[str, str]]:
    """Return a line of all components for every tenth step, the last five of them.

    The original printed one every ten batches.

    Args:
        rows: Of telemetry, of the whole run so far.

    Returns:
        The lines, and no files; see `stabjax.models.task.Task`.
    """
    recent = rows[-_EVERY * _LINES :]
    shown = [row for row in recent if (row["step"] + 1) % _EVERY == 0]
    return "\n".join(map(_line, shown)), {}


def _line(row: Mapping[str, Any]) -> str:
    parts = [
        f"{name} {float(row[f'raw/{name}']):.4g}"
        for name in _NAMES
        if f"raw/{name}" in row
    ]
    return f"step {row['step'] + 1}: {', '.join(parts)}, total {float(row['loss']):.4g}"
