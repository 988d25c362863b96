"""Running: the loop, the run folder, checkpoints, telemetry on the host, reports."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stabjax.run.build import build_task as build_task
    from stabjax.run.loop import RunResult as RunResult
    from stabjax.run.loop import train as train
    from stabjax.run.signals import Preempted as Preempted

_HOME = {
    "RunResult": "loop",
    "build_task": "build",
    "train": "loop",
    "Preempted": "signals",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: reports are read without jax, `train` brings orbax.
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
