"""The contents of the page of one run."""

import math
import pathlib
import shlex
from typing import Any

import numpy as np

from stabjax.run import page_events
from stabjax.run.artifacts import read_pictures
from stabjax.run.page_numbers import NOTHING, share, show
from stabjax.run.page_panels import Panel, Strip, panels, strips
from stabjax.run.page_records import RunRecord, read_run

MOST_ROWS = 100
FACTS = ("versions", "hardware", "seconds")
NORMS = ("grad_norm", "update_norm", "update_ratio")
SCALES = ("gradient_scale", "update_scale")
COUNTERS = frozenset(
    {"accepted", "applied_total", "refused_total", "consecutive_refused", "rollbacks",
     "first_bad_leaf", "first_bad_component", "halted", "time", "wall_seconds"}
)  # fmt: skip


def single_run(folder: pathlib.Path) -> dict[str, Any]:
    """Gather what the page of one run folder shows.

    Args:
        folder: A run folder; anything in it may be missing or torn.

    Returns:
        The variables of templates/run.html.
    """
    run = read_run(folder)
    name = folder.resolve().name
    arm = folder.resolve().parent
    in_comparison = (arm.parent / "comparison.json").is_file()
    last_step = int(run.steps[-1]) if len(run.steps) else 0
    groups = page_events.group_events([("", run)])
    names, rows = page_events.evaluations(run)
    return {
        "title": f"{arm.name}, {name}" if in_comparison else name,
        "subtitle": subtitle(run),
        "figures": _figures(run),
        "sections": _sections(run, last_step),
        "strips": _strips(run, last_step),
        "pictures": read_pictures(folder, run.problems),
        "last_step": last_step,
        "events": groups[:MOST_ROWS],
        "events_left_out": max(0, len(groups) - MOST_ROWS),
        "evaluation_names": names,
        "evaluations": [
            (step, [NOTHING if value is None else show(value) for value in row])
            for step, row in rows[-MOST_ROWS:]
        ],
        "facts": facts_of(run),
        "config_text": run.config_text,
        "command": _command(name) if run.config else "",
        "problems": run.problems,
    }


def _command(name: str) -> str:
    # Under another name: under its own, the same command would resume it.
    return shlex.join(
        ["stabjax", "train", f"{name}/config.yaml", "--name", f"{name}-again"]
    )


def subtitle(run: RunRecord) -> str:
    """Say in one line what ran, for how long and how it ended."""
    model = run.config.get("model")
    named = model.get("name") if isinstance(model, dict) else None
    parts = [f"model {named}"] if named else []
    if len(run.steps):
        parts.append(f"{len(run.steps)} steps")
    parts.append(page_events.outcome(run))
    return ", ".join(parts)


def facts_of(run: RunRecord) -> list[tuple[str, str]]:
    """Return what the folder says of the machine and the versions."""
    return flatten({name: run.facts[name] for name in FACTS if name in run.facts})


def flatten(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Turn facts into pairs of name and text; a group of facts becomes one line."""
    pairs = []
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items())
        if isinstance(value, str | int | float) and value != "":
            pairs.append((name.replace("_", " "), str(value)))
    return pairs


def _figures(run: RunRecord) -> list[tuple[str, str, str]]:
    """The few numbers at the top: name, value, remark."""
    loss = run.column("loss")
    figures = []
    if len(loss.values):
        last = float(loss.values[-1])
        figures.append(("last loss", show(last), f"step {int(loss.steps[-1])}"))
    if len(loss.finite.values):
        best = int(np.argmin(loss.finite.values))
        at = f"step {int(loss.finite.steps[best])}"
        figures.append(("lowest loss", show(float(loss.finite.values[best])), at))
    for title, kind in (
        ("steps refused", "refused"),
        ("steps clipped", "clipped"),
        ("loss not finite", "loss not finite"),
        ("steps with an alert", "alert"),
    ):
        marked, steps = page_events.counts([run], kind)
        if steps:
            figures.append((title, f"{marked}", f"{share(marked, steps)} of {steps}"))
    return figures


def _sections(
    run: RunRecord, last_step: int
) -> list[tuple[str, list[Panel], list[str]]]:
    """Group the run's columns: title, panels, and what a sentence says as well."""
    names = list(run.columns)
    raw = [n for n in names if n.startswith("raw/")]
    weighted = [n for n in names if n.startswith("weighted/")]
    guards = [n for n in names if "/" in n and n not in raw and n not in weighted]
    known = {"loss", *raw, *weighted, *NORMS, *SCALES, *guards, *COUNTERS}
    measured = [n for n in (*NORMS, *SCALES) if n in run.columns]
    sections = []
    for index, (title, columns) in enumerate(
        [
            ("Loss and its components, before weighting", ["loss", *raw]),
            ("Components as they enter the loss", weighted),
            ("Norms and scales", measured),
            ("Metrics", [name for name in names if name not in known]),
            ("Guards", guards),
        ]
    ):
        notes = {name: _in_words(run, name) for name in columns}
        shown = [name for name in columns if not notes[name]]
        drawn = panels({"": [run]}, shown, last_step, prefix=f"s{index}p")
        said = [note for note in notes.values() if note]
        if drawn or said:
            sections.append((title, drawn, said))
    return sections


def _in_words(run: RunRecord, name: str) -> str:
    """Say what a column does where that needs no picture; empty if it needs one."""
    values = run.column(name).values
    if name == "loss" or name.startswith("raw/") or len(values) < 2:
        return ""
    raw = run.column("raw/" + name.removeprefix("weighted/")).values
    if name.startswith("weighted/") and len(raw) == len(values):
        weights = values[raw != 0] / raw[raw != 0]
        weight = float(np.median(weights)) if len(weights) else math.nan
        # float32 keeps about seven digits of the product.
        if np.allclose(values, weight * raw, rtol=1e-5, atol=0.0):
            return f"{name} is {show(weight)} times the raw one"
    if np.isfinite(values).all() and np.ptp(values) == 0.0:
        return f"{name} is {show(float(values[0]))} throughout"
    return ""


def _strips(run: RunRecord, last_step: int) -> list[Strip]:
    if not len(run.steps):
        return []
    shown = strips([run], last_step)
    for name in sorted({name for names in run.alerts.values() for name in names}):
        steps = np.asarray([s for s, names in run.alerts.items() if name in names])
        shown.append(Strip.of(name.lower().replace("_", " "), steps, run, last_step))
    return shown
