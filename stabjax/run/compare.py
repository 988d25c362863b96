"""Train every arm of a comparison on every random seed, and lay out the figures.

An arm is the base configuration with a few overrides: a model before its fixes, with
the fixes its authors documented, and with those that remove the cause. Arms that halt
or diverge are results; their row says so.
"""

import dataclasses
import importlib
import json
import os
import pathlib
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import Any

from stabjax.config.errors import ConfigError
from stabjax.config.schema import RunConfig, effective
from stabjax.run.build import build_task
from stabjax.run.compare_arms import BASELINE, Arm, arms_of, seeds_of
from stabjax.run.folder import check_config, make_folder, write_atomically
from stabjax.run.loop import train
from stabjax.run.page_comparison import ended
from stabjax.run.page_numbers import Cell, reduce_run
from stabjax.run.page_reading import read_figures
from stabjax.run.page_records import RunRecord, read_object, read_run
from stabjax.run.page_table import comparison_table
from stabjax.run.report import write_report
from stabjax.train_step import TrainingHalted


@dataclasses.dataclass(frozen=True)
class ComparisonResult:
    """What a comparison leaves; as text, its table and its reading.

    Attributes:
        folder: The comparison folder.
        page: Its one-file HTML page.
        titles: Headings of the figures.
        cells: Arm name to one cell per heading.
        outcomes: Arm name to how its runs ended.
        reading: Sentences that follow from the figures.
    """

    folder: pathlib.Path
    page: pathlib.Path
    titles: tuple[str, ...]
    cells: dict[str, list[Cell]]
    outcomes: dict[str, str]
    reading: list[str]

    def __str__(self) -> str:
        width = shutil.get_terminal_size((100, 24)).columns
        table = comparison_table(self.titles, self.cells, self.outcomes, width=width)
        lines = [
            textwrap.fill(line, max(60, min(width, 88)), subsequent_indent="  ")
            for line in self.reading
        ]
        return "\n".join([table, "", *lines, "", f"{self.page}"])


def compare(
    config: RunConfig,
    folder: str | os.PathLike,
    *,
    seeds: Sequence[int] | None = None,
    ablate: bool = False,
    progress: bool = True,
) -> ComparisonResult:
    """Train all arms of ``config.compare`` and write their comparison.

    Every arm sees the same random seeds, and with a seed the same data. The step of an
    arm is compiled once: a model's ``build`` takes the seed for its batches alone. Run
    again on the same folder, it goes on where it stopped.

    Args:
        config: The base configuration, with a ``compare:`` section.
        folder: The comparison folder; runs go to ``<arm>/seed<k>`` in it.
        seeds: Random seeds; those of the configuration by default.
        ablate: Add the fixes of ``compare.ablate``, one at a time, to ``before``.
        progress: Show progress on standard error.

    Returns:
        The table, the reading and the page; also in ``comparison.json``.

    Raises:
        ConfigError: Before anything is trained, if an arm cannot be run.
        Preempted: After a signal; the comparison can be continued.
    """
    root = _check_folder(folder)
    seeds = seeds_of(config, seeds)
    arms = arms_of(config, seeds, ablate=ablate)
    module = _model(config)
    make_folder(root)
    write_atomically(root / "config.yaml", effective(config))
    data = _header(config, root, seeds, module, ablate)
    _write(root, data)
    records: dict[str, list[RunRecord]] = {}
    for number, arm in enumerate(arms):
        if progress:
            print(f"arm {arm.name} ({number + 1} of {len(arms)})", file=sys.stderr)
        records[arm.name] = _train_arm(arm, root, progress)
        data["arms"].append(_entry(arm, records[arm.name], module.SUMMARY))
        _write(root, data)  # after each arm: a page can be made while others train
    return _conclude(root, data, records, module)


def _conclude(
    root: pathlib.Path,
    data: dict[str, Any],
    records: dict[str, list[RunRecord]],
    module: Any,
) -> ComparisonResult:
    """Read the figures of all arms, and write the table and the page."""
    cells = {
        entry["name"]: [Cell.from_json(cell) for cell in entry["cells"]]
        for entry in data["arms"]
    }
    main = [entry["name"] for entry in data["arms"] if not entry["ablation"]]
    data["reading"] = _reading(module, {name: records[name] for name in main}, cells)
    data.update(_facts(records))
    _write(root, data)
    return ComparisonResult(
        folder=root,
        page=write_report(root),
        titles=tuple(column.title for column in module.SUMMARY),
        cells=cells,
        outcomes={name: _ended(runs) for name, runs in records.items()},
        reading=data["reading"],
    )


def _train_arm(arm: Arm, root: pathlib.Path, progress: bool) -> list[RunRecord]:
    """Train one arm on all its seeds with one compiled step."""
    shared = None
    records = []
    for seed, config in arm.configs.items():
        folder = root / arm.folder / f"seed{seed}"
        if _is_done(folder, config):
            records.append(read_run(folder))
            continue
        if progress:
            print(f"  random seed {seed}", file=sys.stderr)
        task = build_task(config)
        if shared is not None:
            task = dataclasses.replace(task, train=shared)
        shared = task.train
        try:
            train(config, folder, task=task, progress=progress)
        except TrainingHalted as error:  # a result, not a failure of the comparison
            if progress:
                print(f"  {error}", file=sys.stderr)
        records.append(read_run(folder))
    return records


def _is_done(folder: pathlib.Path, config: RunConfig) -> bool:
    """Return whether a run already reached its end, for better or worse."""
    if not folder.exists():
        return False
    check_config(folder, config)
    facts = read_object(folder / "run.json", [])
    complete = facts.get("early") or facts.get("step") == config.train.steps
    return facts.get("outcome") == "halted" or (
        facts.get("outcome") == "finished" and complete
    )


def _check_folder(folder: str | os.PathLike) -> pathlib.Path:
    path = pathlib.Path(os.path.abspath(folder))
    if path.exists() and not path.is_dir():
        raise ConfigError(f"comparison folder {path} must be a folder.")
    begun = (path / "comparison.json").exists()
    if path.is_dir() and any(path.iterdir()) and not begun:
        raise ConfigError(
            f"comparison folder {path} exists and holds something else; choose another."
        )
    return path


def _model(config: RunConfig) -> Any:
    models = importlib.import_module("stabjax.models").MODELS
    return importlib.import_module(models[config.model_name])


def _header(
    config: RunConfig,
    root: pathlib.Path,
    seeds: tuple[int, ...],
    module: Any,
    ablate: bool,
) -> dict[str, Any]:
    """Return what is known of a comparison before any arm has run."""
    command = ["stabjax", "compare", f"{root.name}/config.yaml"]
    command += ["--seeds", ",".join(map(str, seeds)), *(["--ablate"] if ablate else [])]
    if pathlib.Path(sys.argv[0]).name == "stabjax":
        command = ["stabjax", *sys.argv[1:]]
    return {
        "name": root.name,
        "model": config.model_name,
        "steps": config.train.steps,
        "seeds": list(seeds),
        "baseline": BASELINE if config.compare and BASELINE in config.compare.arms
        else None,
        "command": shlex.join(command),
        "summary": [dataclasses.asdict(column) for column in module.SUMMARY],
        "curves": list(module.CURVES),
        "arms": [],
        "reading": [],
    }  # fmt: skip


def _entry(arm: Arm, runs: list[RunRecord], summary: Sequence[Any]) -> dict[str, Any]:
    """Return an arm's part of comparison.json."""
    cells = []
    for column in summary:
        pairs = [reduce_run(run, column.column, column.reduce) for run in runs]
        values, lost = zip(*pairs, strict=True)
        cells.append(Cell(values, lost, column.digits).as_json())
    return {
        "name": arm.name,
        "ablation": arm.ablation,
        "overrides": list(arm.overrides),
        "outcome": _ended(runs),
        "seeds": [
            {"seed": seed, "folder": f"{arm.folder}/seed{seed}"} for seed in arm.configs
        ],
        "cells": cells,
    }


def _reading(
    module: Any, runs: dict[str, list[RunRecord]], cells: dict[str, list[Cell]]
) -> list[str]:
    """Return the sentences of the general rules, then those of the model's own."""
    evaluated = {
        column.title: {name: cells[name][index] for name in runs}
        for index, column in enumerate(module.SUMMARY)
        if column.reduce == "eval" and not column.baseline
    }
    sentences = read_figures(runs, evaluated)
    own = getattr(module, "reading", None)
    if own is not None:
        titles = [column.title for column in module.SUMMARY]
        sentences += own(
            {
                name: {t: c.figures() for t, c in zip(titles, cells[name], strict=True)}
                for name in runs
            }
        )
    return sentences


def _ended(runs: list[RunRecord]) -> str:
    return ended([(run.folder.name.removeprefix("seed"), run) for run in runs])


def _facts(records: dict[str, list[RunRecord]]) -> dict[str, Any]:
    """Return versions, hardware and the time all runs took together."""
    runs = [run for arm in records.values() for run in arm]
    facts = runs[0].facts
    seconds = sum(float(run.facts.get("seconds") or 0.0) for run in runs)
    return {
        "versions": facts.get("versions", {}),
        "hardware": facts.get("hardware", {}),
        "seconds": round(seconds, 1),
    }


def _write(root: pathlib.Path, data: dict[str, Any]) -> None:
    text = json.dumps(data, allow_nan=False, indent=1, ensure_ascii=False)
    write_atomically(root / "comparison.json", text + "\n")
