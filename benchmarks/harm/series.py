"""Per-step signals of the unguarded runs, to try guards on without training."""

import pathlib
from collections.abc import Sequence

import numpy as np

from harm.execute import Case, Scanned
from harm.run import Run
from harm.settings import Subject, build

SIGNALS = ("loss", "grad_norm", "update_norm", "update_ratio")


def series_of(run: Run, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Return ``"<run>/<seed>/<signal>"`` to an array with one entry per step.

    The update norm, and its ratio to the parameters, of a step are those of the update
    before, as guards see them. The loss components are left out.
    """
    subject = Subject(run.clip, 0.0, 0.0, (), own_loop=False)
    setting = build("unguarded", subject)
    assert setting is not None
    scanned = Scanned(Case(run), setting)
    found = {}
    for seed in seeds:
        columns, _ = scanned.trace(seed)
        for signal in SIGNALS:
            found[f"{run.name}/{seed}/{signal}"] = columns[signal]
    return found


def write(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Write the file in one go, so that a reader never sees half of it."""
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, allow_pickle=False, **arrays)
    part.replace(path)
