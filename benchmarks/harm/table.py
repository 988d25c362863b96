"""The two tables: what healthy runs suffer, and which faults they survive."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harm.judge import HARM, compare, harm, recovered
from harm.levels import level
from harm.plan import PEERS, half_of, healthy_settings
from harm.settings import REFERENCES

Line = Mapping[str, Any]
Lines = Mapping[tuple[str, str, str], list[Line]]
HALVES = ("choose", "report")
_TITLES = (
    "setting",
    "harmed",
    "of runs to choose by",
    "to report",
    "refused per 1000",
    "refused nowhere",
    "score, median",
    "by 1 % worse / better",
)
CLEAN = "none"
_MAIN = ("unguarded", "clip", *PEERS, "readme", "recommended")


def grouped(lines: Sequence[Line]) -> Lines:
    """Return the lines, one per seed, of each run, setting and fault."""
    found: dict[tuple[str, str, str], list[Line]] = defaultdict(list)
    for line in lines:
        found[line["run"], line["setting"], line.get("fault", CLEAN)].append(line)
    return found


def harms(lines: Lines) -> dict[str, dict[str, tuple[str, ...]]]:
    """Return for each setting, for each run, why it is harmed; empty if it is not."""
    found: dict[str, dict[str, tuple[str, ...]]] = defaultdict(dict)
    for setting, run, group, reference in _compared(lines):
        found[setting][run] = harm(group, reference, level)
    return found


def _compared(lines: Lines) -> Iterator[tuple[str, str, list[Line], list[Line]]]:
    """Yield setting, run, and the lines of both, where they can be compared."""
    for (run, setting, fault), group in lines.items():
        reference = lines.get((run, group[0]["reference"], CLEAN), [])
        if fault == CLEAN and setting != "unguarded" and _is_reference(reference):
            yield setting, run, group, reference


def _is_reference(lines: Sequence[Line]) -> bool:
    """Return whether there are lines, and none of their runs ends in NaN."""
    scores = [score for line in lines for score in (line["score"], *line["twins"])]
    return bool(scores) and None not in scores


def healthy_table(lines: Sequence[Line], asked: Sequence[str]) -> Iterator[str]:
    """Yield the table of the healthy runs, and below it each harm.

    Args:
        lines: All lines.
        asked: The settings to be shown; none: all of them.
    """
    by = grouped(lines)
    harmed = harms(by)
    known = [*healthy_settings(), *harmed]  # in this order, and each once
    found = {s: harmed[s] for s in known if s in harmed and (s in asked or not asked)}
    apart: dict[str, list[float]] = defaultdict(list)
    for setting, _, group, reference in _compared(by):
        apart[setting].append(compare(group, reference).difference)
    yield f"| {' | '.join(_TITLES)} |"
    yield "| --- |" + " --- |" * (len(_TITLES) - 1)
    for setting, runs in found.items():
        cells = [_count(runs)]
        for half in HALVES:
            cells.append(_count({r: w for r, w in runs.items() if half_of(r) == half}))
        cells += _refusals([by[run, setting, CLEAN] for run in runs])
        median = min(statistics.median(apart[setting]), 50.0)
        cells.append(f"{100 * math.expm1(median):+.2f} %")
        worse = sum(difference > HARM for difference in apart[setting])
        better = sum(difference < -HARM for difference in apart[setting])
        yield f"| {setting} | {' | '.join(cells)} | {worse} / {better} |"
    for setting, runs in found.items():
        if any(runs.values()):
            yield f"\n{setting}:"
        for run, reasons in runs.items():
            if reasons:
                yield f"  {run} ({half_of(run)}): {'; '.join(reasons)}"


def _refusals(groups: Sequence[Sequence[Line]]) -> list[str]:
    """Return how many steps were refused, and in how many runs none."""
    flat = [line for group in groups for line in group]
    refused = sum(line["refused"] for line in flat)
    none = sum(not any(line["refused"] for line in group) for group in groups)
    share = 1000 * refused / sum(line["steps"] for line in flat)
    return [f"{share:.2f}", f"{none} of {len(groups)}"]


def recoveries(lines: Lines) -> dict[tuple[str, str, str], bool]:
    """Return for each setting, fault and run whether the run recovered.

    It has if it ends where the clean run does: as people write it, or, where the
    setting clips, with the same clip and nothing else.
    """
    found = {}
    for (run, setting, fault), group in lines.items():
        if fault == CLEAN:
            continue
        names = {"unguarded", group[0]["reference"], setting} & set(REFERENCES)
        clean = (lines.get((run, name, CLEAN), []) for name in names)
        references = [reference for reference in clean if _is_reference(reference)]
        found[setting, fault, run] = any(recovered(group, r) for r in references)
    # Where a run has a clip of its own, the clip is what it has unguarded.
    runs = {run for setting, _, run in found if setting == "clip"}
    for (setting, fault, run), well in list(found.items()):
        if setting == "unguarded" and run not in runs:
            found["clip", fault, run] = well
    return found


def faults_table(lines: Sequence[Line], asked: Sequence[str]) -> Iterator[str]:
    """Yield the recovered share per fault and setting, and what a guard adds to it.

    Args:
        lines: All lines.
        asked: The settings to be shown; none: the main ones, and the pairs below.
    """
    found = recoveries(grouped(lines))
    known = {setting for setting, _, _ in found}
    settings = [setting for setting in asked or _MAIN if setting in known]
    faults = list(dict.fromkeys(fault for _, fault, _ in found))
    yield f"| fault | {' | '.join(settings)} |"
    yield "| --- |" + " --- |" * len(settings)
    for fault in faults:
        cells = (_share(found, setting, fault=fault) for setting in settings)
        yield f"| {fault} | {' | '.join(cells)} |"
    for half in (None, *HALVES):
        cells = (_share(found, setting, half=half) for setting in settings)
        name = "all faults" if half is None else f"all faults, runs to {half}"
        yield f"| **{name}** | {' | '.join(cells)} |"
    yield ""
    yield from _pairs_table(found)


def _pairs_table(found: Mapping[tuple[str, str, str], bool]) -> Iterator[str]:
    """Yield what each guard adds to the preset, on the runs that have both."""
    pairs = dict.fromkeys(s for s, _, _ in found if s.startswith(("recommended",)))
    pairs.pop("recommended", None)
    if not pairs:
        return
    yield "| setting | recovered | the preset in the same runs | gained | lost |"
    yield "| --- | --- | --- | --- | --- |"
    for pair in pairs:
        both = [
            (well, found["recommended", fault, run])
            for (setting, fault, run), well in found.items()
            if setting == pair and ("recommended", fault, run) in found
        ]
        if not both:
            continue
        gained = sum(a and not b for a, b in both)
        lost = sum(b and not a for a, b in both)
        mine, preset = (sum(column) for column in zip(*both, strict=True))
        size = len(both)
        yield f"| {pair} | {mine} of {size} | {preset} of {size} | {gained} | {lost} |"


def _count(runs: Mapping[str, tuple[str, ...]]) -> str:
    return f"{sum(bool(reasons) for reasons in runs.values())} of {len(runs)}"


def _share(
    found: Mapping[tuple[str, str, str], bool],
    setting: str,
    *,
    fault: str | None = None,
    half: str | None = None,
) -> str:
    """Return how many runs recovered, as text."""
    chosen = [
        well
        for (s, f, run), well in found.items()
        if s == setting and fault in (None, f) and half in (None, half_of(run))
    ]
    return f"{sum(chosen)}/{len(chosen)}" if chosen else ""
