"""The contents of the page of a comparison: arms side by side."""

import dataclasses
import pathlib
from typing import Any

from stabjax.run import page_events
from stabjax.run.artifacts import Picture, read_pictures
from stabjax.run.page_numbers import NOTHING, Cell
from stabjax.run.page_panels import Panel, Strip, panels, strips
from stabjax.run.page_records import RunRecord, read_object, read_run
from stabjax.run.page_single import FACTS, MOST_ROWS, flatten

MOST_SLOTS = 8  # colors that can be told apart
DEFAULT_CURVES = ("loss", "grad_norm", "gradient_scale")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One row of the table, with its runs."""

    name: str
    slot: int
    overrides: list[str]
    outcome: str
    cells: list[tuple[str, str, str]]
    runs: list[tuple[str, RunRecord]]

    @property
    def records(self) -> list[RunRecord]:
        """The runs without their seeds."""
        return [run for _, run in self.runs]


@dataclasses.dataclass(frozen=True)
class Part:
    """The arms of the comparison, or its fixes one at a time, with their pictures."""

    arms: list[Arm]
    panels: list[Panel]
    strips: list[tuple[Arm, list[Strip]]]


def comparison(folder: pathlib.Path) -> dict[str, Any]:
    """Gather what the page of a comparison folder shows.

    Args:
        folder: Holds comparison.json and, per arm and seed, a run folder.

    Returns:
        The variables of templates/comparison.html.
    """
    problems: list[str] = []
    data = read_object(folder / "comparison.json", problems)
    listed = [arm for arm in _list(data.get("arms")) if isinstance(arm, dict)]
    arms = [_arm(folder, arm, problems) for arm in listed] or _found(folder)
    ablated = [bool(arm.get("ablation")) for arm in listed] or [False] * len(arms)
    main = [arm for arm, fix in zip(arms, ablated, strict=True) if not fix]
    fixes = [arm for arm, fix in zip(arms, ablated, strict=True) if fix]
    last = max((int(r.steps[-1]) for a in arms for r in a.records if len(r.steps)),
               default=0)  # fmt: skip
    columns = [str(name) for name in _list(data.get("curves"))] or list(DEFAULT_CURVES)
    baseline = [arm for arm in main if arm.name == data.get("baseline")]
    text = folder / "config.yaml"
    return {
        "title": str(data.get("name") or folder.resolve().name),
        "subtitle": _subtitle(data, main, last),
        "titles": [_title(column) for column in _list(data.get("summary"))],
        "main": _part(main, columns, last, "m"),
        "fixes": _part(baseline + fixes, columns, last, "f") if fixes else None,
        "baseline": str(data.get("baseline") or ""),
        "pictures": _pictures(main, problems),
        "reading": _by_arm(data.get("reading"), [arm.name for arm in main]),
        "last_step": last,
        "events": _events(arms),
        "facts": flatten({k: data[k] for k in FACTS if k in data}),
        "seeds": ", ".join(str(seed) for seed in _list(data.get("seeds"))),
        "config_text": text.read_text("utf-8", "replace") if text.is_file() else "",
        "command": str(data.get("command") or ""),
        "problems": problems,
    }  # fmt: skip


def _part(arms: list[Arm], columns: list[str], last: int, prefix: str) -> Part:
    arms = [dataclasses.replace(arm, slot=slot) for slot, arm in enumerate(arms)]
    shown = {arm.name: arm.records for arm in arms[:MOST_SLOTS]}
    return Part(
        arms=arms,
        panels=panels(shown, columns, last, prefix=prefix),
        strips=[(arm, strips(arm.records, last)) for arm in arms],
    )


def _arm(folder: pathlib.Path, arm: dict[str, Any], problems: list[str]) -> Arm:
    """Read an arm's runs; a folder that is not inside the comparison is not read."""
    runs = []
    for seed in _list(arm.get("seeds")):
        label = str(seed.get("seed")) if isinstance(seed, dict) else str(seed)
        place = seed.get("folder") if isinstance(seed, dict) else None
        at = (folder / str(place or f"{arm.get('name')}/seed{label}")).resolve()
        if not at.is_relative_to(folder.resolve()):
            problems.append(f"{place} lies outside the comparison and is not read.")
            continue
        run = read_run(at)
        notes = [f"{arm.get('name')}, seed {label}: {note}" for note in run.problems]
        problems += notes
        runs.append((label, run))
    cells = [Cell.from_json(cell).lines() for cell in _list(arm.get("cells"))]
    overrides = [str(override) for override in _list(arm.get("overrides"))]
    return Arm(str(arm.get("name")), 0, overrides, ended(runs), cells, runs)


def _pictures(
    arms: list[Arm], problems: list[str]
) -> list[tuple[str, list[tuple[Arm, Picture]]]]:
    """Gather the pictures of each arm's first run by name, arms side by side."""
    gathered: dict[str, list[tuple[Arm, Picture]]] = {}
    for slot, arm in enumerate(arms):
        for run in arm.records[:1]:
            for picture in read_pictures(run.folder, problems):
                shown = (dataclasses.replace(arm, slot=slot), picture)
                gathered.setdefault(picture.name, []).append(shown)
    return list(gathered.items())


def _found(folder: pathlib.Path) -> list[Arm]:
    """Find the arms by their folders where comparison.json does not list them."""
    arms = []
    for place in sorted(
        {path.parent for path in folder.glob("*/seed*") if path.is_dir()}
    ):
        seeds = sorted(path for path in place.glob("seed*") if path.is_dir())
        runs = [(path.name.removeprefix("seed"), read_run(path)) for path in seeds]
        arms.append(Arm(place.name, 0, [], ended(runs), [], runs))
    return arms


def ended(runs: list[tuple[str, RunRecord]]) -> str:
    """Say how an arm's seeds ended, in one phrase."""
    ends = [(page_events.outcome(run), seed) for seed, run in runs]
    finished = [end for end, _ in ends if end.startswith("finished")]
    if len(finished) == len(ends) and ends:
        early = sum(end != "finished" for end in finished)
        return f"finished, {early} of {len(ends)} early" if early else "finished"
    if len(ends) < 2:
        return ends[0][0] if ends else "no run"
    others = [f"seed {n} {end}" for end, n in ends if not end.startswith("finished")]
    return f"{len(finished)} of {len(ends)} seeds finished; " + ", ".join(others)


def _subtitle(data: dict[str, Any], arms: list[Arm], last: int) -> str:
    parts = [f"model {data['model']}"] if isinstance(data.get("model"), str) else []
    parts.append(f"{len(arms)} arms")
    seeds = _list(data.get("seeds"))
    if seeds:
        noun = "seed" if len(seeds) == 1 else "seeds"
        parts.append(f"{len(seeds)} random {noun}")
    steps = {len(run.steps) for arm in arms for run in arm.records if len(run.steps)}
    fewest, most = (min(steps), max(steps)) if steps else (last + 1, last + 1)
    parts.append(
        f"{most} steps each" if fewest == most else f"{fewest} to {most} steps"
    )
    return ", ".join(parts)


def _by_arm(reading: Any, names: list[str]) -> list[tuple[str, list[str]]]:
    """Gather sentences that begin with an arm's name under it; the rest come last."""
    grouped: dict[str, list[str]] = {name: [] for name in names}
    grouped["all arms"] = []
    for line in _list(reading):
        who, colon, sentence = str(line).partition(": ")
        if colon and who in names:
            grouped[who].append(_capitalized(sentence))
        else:
            said = sentence if who == "all arms" else str(line)
            grouped["all arms"].append(_capitalized(said))
    return [(who, sentences) for who, sentences in grouped.items() if sentences]


def _capitalized(sentence: str) -> str:
    """Begin with a capital, unless the first word is a column's name."""
    word = sentence.split(" ", 1)[0]
    return sentence[:1].upper() + sentence[1:] if word.isalpha() else sentence


def _title(column: Any) -> tuple[str, str]:
    """Return a summary column's heading and how it was reduced, in words."""
    if not isinstance(column, dict):
        return str(column), ""
    words = {
        "min": "minimum over steps",
        "max": "maximum over steps",
        "sum": "sum over steps",
        "last": "last step",
        "mean_last_100": "mean of the last 100 steps",
        "count_nonfinite": "number of steps",
        "eval": "at the end",
    }
    reduce = str(column.get("reduce") or "")
    return str(column.get("title") or NOTHING), words.get(reduce, reduce)


def _events(arms: list[Arm]) -> list[tuple[Arm, list[page_events.EventGroup], int]]:
    listed = []
    for arm in arms:
        groups = page_events.group_events(arm.runs)
        if groups:
            most = MOST_ROWS // max(1, len(arms))
            listed.append((arm, groups[:most], max(0, len(groups) - most)))
    return listed


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
