"""The two tables: what healthy runs suffer, and which faults they survive."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harm.judge import harm, recovered
from harm.levels import level
from harm.plan import PEERS, half_of

Line = Mapping[str, Any]
Lines = Mapping[tuple[str, str, str], list[Line]]
HALVES = ("choose", "report")
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
    for (run, setting, _), group in lines.items():
        if setting != "unguarded":
            reference = lines[run, group[0]["reference"], CLEAN]
            found[setting][run] = harm(group, reference, level)
    return found


def healthy_table(lines: Sequence[Line], asked: Sequence[str]) -> Iterator[str]:
    """Yield the table of the healthy runs, and below it each harm.

    Args:
        lines: All lines.
        asked: The settings to be shown; none: all of them.
    """
    by = grouped(lines)
    yield (
        "| setting | harmed | of them to choose by | to report | refused per 1000 | "
        "refused nowhere |"
    )
    yield "| --- | --- | --- | --- | --- | --- |"
    found = {s: runs for s, runs in harms(by).items() if s in asked or not asked}
    for setting, runs in found.items():
        groups = [by[run, setting, CLEAN] for run in runs]
        cells = [_count(runs)]
        for half in HALVES:
            cells.append(_count({r: w for r, w in runs.items() if half_of(r) == half}))
        flat = [line for group in groups for line in group]
        refused = sum(line["refused"] for line in flat)
        cells.append(f"{1000 * refused / sum(line['steps'] for line in flat):.2f}")
        none = sum(not any(line["refused"] for line in group) for group in groups)
        cells.append(f"{none} of {len(groups)}")
        yield f"| {setting} | {' | '.join(cells)} |"
    for setting, runs in found.items():
        if any(runs.values()):
            yield f"\n{setting}:"
        for run, reasons in runs.items():
            if reasons:
                yield f"  {run} ({half_of(run)}): {'; '.join(reasons)}"


def recoveries(lines: Lines) -> dict[tuple[str, str, str], bool]:
    """Return for each setting, fault and run whether the run recovered."""
    found = {}
    for (run, setting, fault), group in lines.items():
        if fault != CLEAN:
            reference = lines[run, group[0]["reference"], CLEAN]
            found[setting, fault, run] = recovered(group, reference)
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
