"""Run folders made by hand, in the format the runner writes."""

import json
import math
import pathlib
import shutil
from collections.abc import Callable

import numpy as np
import pytest

from stabjax.run.page_numbers import Cell, json_number, reduce_run
from stabjax.run.page_reading import read_figures
from stabjax.run.page_records import read_run

SUMMARY = [
    {"title": title, "column": column, "reduce": reduce, "digits": 3}
    for title, column, reduce in (
        ("MCMC loss, lowest", "raw/mcmc", "min"),
        ("MCMC loss, highest", "raw/mcmc", "max"),
        ("cross-entropy, last 100", "raw/ce", "mean_last_100"),
        ("non-finite losses", "loss", "count_nonfinite"),
        ("gradient norm, highest", "grad_norm", "max"),
        ("train exact match", "exact_match", "eval"),
    )
]
CURVES = ["loss", "raw/ce", "raw/mcmc", "weighted/mcmc", "raw/dyn", "grad_norm"]


def write_lines(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _row(arm: str, step: int, draw: np.random.Generator) -> dict:
    """One telemetry line of an arm that fails, or not, the way its name says."""
    noise = float(draw.normal())
    ce = 2.3 * math.exp(-step / 250) + 0.85 + 0.06 * noise
    raw = {
        "before": -0.3 * math.exp(step / 28) * (1 + 0.1 * noise),
        "seed": -320 * min(1, step / 300) * (1 + 0.2 * noise) + 3 * noise,
        "sound": 0.1 * math.exp(-step / 300) * noise,
    }.get(arm, -0.3 * math.exp(step / 60) * (1 + 0.1 * noise))
    if arm == "before" and step > 500 and draw.random() < 0.7:
        raw = math.nan
    weighted = min(10.0, max(-10.0, raw)) if arm == "seed" else raw
    loss = ce + weighted + 0.1
    refused = arm not in ("before", "seed") and not math.isfinite(loss)
    norm = min(abs(raw), 1e18) + ce if math.isfinite(raw) else raw
    clipped = norm > 1.0 and arm != "before"
    return {
        "step": step, "accepted": int(not refused), "loss": loss, "raw/ce": ce,
        "raw/mcmc": raw, "weighted/ce": ce, "weighted/mcmc": weighted,
        "raw/dyn": 0.1, "weighted/dyn": 0.1, "grad_norm": norm,
        "update_norm": 0.01 * ce, "update_ratio": 0.001 * ce,
        "gradient_scale": 1 / norm if clipped else 1.0, "update_scale": 1.0,
        "alerts": (["NONFINITE_LOSS"] if not math.isfinite(loss) else [])
        + (["CLIPPED"] if clipped else []),
    }  # fmt: skip


def write_run(
    folder: pathlib.Path,
    arm: str = "sound",
    *,
    steps: int = 300,
    seed: int = 0,
    planned: int | None = None,
) -> pathlib.Path:
    """Write one run folder; non-finite values take turns in being null and text."""
    folder.mkdir(parents=True)
    draw = np.random.default_rng([seed, len(arm)])
    rows, events = [], []
    for step in range(steps):
        row = _row(arm, step, draw)
        if not math.isfinite(row["loss"]) and not events:
            events.append(
                {"step": step, "event": "alert", "alert": "NONFINITE_LOSS",
                 "cause": "the loss is not finite",
                 "component": "mcmc", "leaf": "mcmc/theta/kernel",
                 "suggestion": "Keep the target inside the convex hull."}
            )  # fmt: skip
        rows.append(
            {
                k: v if not isinstance(v, float) or math.isfinite(v)
                else (None if step % 2 else json_number(v))
                for k, v in row.items()
            }
        )  # fmt: skip
    score = {"exact_match": 0.08 + 0.01 * seed, "pixel_accuracy": 0.7}
    events.append({"step": steps - 1, "event": "evaluation", **score})
    write_lines(folder / "health.jsonl", rows)
    write_lines(folder / "events.jsonl", events)
    (folder / "config.yaml").write_text(
        f"model: {{name: ctm, mcmc: {arm}}}\n"
        f"train: {{steps: {planned or steps}, seed: {seed}}}\n"
    )
    return folder


def _read(folder: pathlib.Path, arms: list[dict]) -> list[str]:
    runs = {
        a["name"]: [read_run(folder / s["folder"]) for s in a["seeds"]] for a in arms
    }
    match = {a["name"]: Cell.from_json(a["cells"][-1]) for a in arms}
    return read_figures(runs, {"train exact match": match})


def write_comparison(
    folder: pathlib.Path, *, steps: int = 300, seeds: int = 3
) -> pathlib.Path:
    """Write a comparison folder of four arms and two fixes."""
    folder.mkdir(parents=True)
    arms = []
    names = ["before", "seed", "sound", "apply_if_finite", "in hull", "per-group clip"]
    for index, name in enumerate(names):
        runs = []
        for seed in range(seeds):
            at = f"{name}/seed{seed}"
            cut = steps * 4 // 5 if (name, seed) == ("apply_if_finite", 1) else steps
            write_run(folder / at, name, steps=cut, seed=seed, planned=steps)
            runs.append((at, read_run(folder / at)))
        cells = []
        for column in SUMMARY:
            pairs = [reduce_run(r, column["column"], column["reduce"]) for _, r in runs]
            values, lost = zip(*pairs, strict=True)
            cells.append(Cell(values, lost, column["digits"]).as_json())
        arms.append(
            {"name": name, "ablation": index > 3, "cells": cells,
             "overrides": [] if name == "sound" else [f"model.mcmc={name}"],
             "seeds": [{"seed": k, "folder": at} for k, (at, _) in enumerate(runs)]}
        )  # fmt: skip
    data = {
        "name": "ctm_cpu", "model": "ctm", "steps": steps, "baseline": "before",
        "seeds": list(range(seeds)), "summary": SUMMARY, "curves": CURVES, "arms": arms,
        "command": "stabjax compare configs/ctm_cpu.yaml --seeds 0 1 2 --ablate",
        "versions": {"stabjax": "0.1.0", "jax": "0.10.2"},
        "hardware": {"device": "cpu", "cores": 2},
        "reading": _read(folder, arms[:4]),
    }  # fmt: skip
    (folder / "comparison.json").write_text(json.dumps(data))
    (folder / "config.yaml").write_text("model: {name: ctm}\n")
    return folder


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Both folders, written once; tests are given copies of their own."""
    folder = tmp_path_factory.mktemp("written")
    write_run(folder / "run", steps=60)
    write_comparison(folder / "comparison", steps=60, seeds=2)
    return folder


@pytest.fixture
def run_folder(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(written / "run", tmp_path / "run"))


@pytest.fixture
def comparison_folder(written: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    at = tmp_path / "comparison"
    return pathlib.Path(shutil.copytree(written / "comparison", at))


@pytest.fixture
def make_run() -> Callable[..., pathlib.Path]:
    return write_run
