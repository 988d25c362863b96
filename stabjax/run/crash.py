"""The crash record: what a person needs to know after a run has failed."""

import contextlib
import importlib.metadata
import pathlib
import platform
import time
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from stabjax.run.folder import make_folder, write_atomically
from stabjax.run.records import encode

PACKAGES = ("stabjax", "jax", "jaxlib", "optax", "flax", "numpy", "orbax-checkpoint")


def versions() -> dict[str, str]:
    """Return the versions a result depends on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def write(
    folder: pathlib.Path,
    error: BaseException,
    *,
    step: int,
    config: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
) -> pathlib.Path | None:
    """Write ``crash/<step>.json``; return its path, or None if the disk refuses.

    Args:
        folder: The run folder.
        error: What ended the run.
        step: Steps dispatched.
        config: The effective configuration.
        rows: The last telemetry rows.
    """
    record = {
        "step": step,
        "exception": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "config": config,
        "last_rows": list(rows),
    }
    try:
        make_folder(folder / "crash")
        path = folder / "crash" / f"{step:08d}.json"
        write_atomically(path, encode(record) + "\n")
    except OSError:  # a full disk is often the very reason
        return None
    return path
