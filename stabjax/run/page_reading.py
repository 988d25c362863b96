"""The honest reading: sentences that follow from a comparison's figures by rule.

Every rule looks at recorded numbers only; none knows what an arm is meant to show.
A model adds rules of its own with a function ``reading``.
"""

import numpy as np

from stabjax.run.page_events import counts, outcome
from stabjax.run.page_numbers import Cell, column_values, share, show
from stabjax.run.page_records import RunRecord

LEAST_STEPS = 20  # fewer steps say nothing about "always" or "never"


def read_figures(
    arms: dict[str, list[RunRecord]], cells: dict[str, dict[str, Cell]]
) -> list[str]:
    """Write the reading of a comparison.

    Args:
        arms: Arm name to its runs, one per random seed.
        cells: Column title to arm name to cell, for the evaluated columns.

    Returns:
        Sentences, arm by arm, then on what the evaluation separates.
    """
    rules = (_ending, _finiteness, _refusals, _components)
    found = {
        name: [sentence for rule in rules for sentence in rule(runs)]
        for name, runs in arms.items()
    }
    shared = [
        sentence
        for sentence in next(iter(found.values()), [])
        if len(found) > 1 and all(sentence in other for other in found.values())
    ]
    sentences = [
        f"{name}: {sentence}"
        for name, said in found.items()
        for sentence in said
        if sentence not in shared
    ]
    sentences += [f"all arms: {sentence}" for sentence in shared]
    for title, row in cells.items():
        sentences += _separation(title, row)
    return sentences


def _ending(runs: list[RunRecord]) -> list[str]:
    """Tell of runs that stopped early, or ended without training."""
    endings = [outcome(run) for run in runs]
    bad = [ending for ending in endings if not ending.startswith("finished")]
    early = [ending for ending in endings if ending.startswith("finished early")]
    said = []
    if bad:
        which = ", ".join(dict.fromkeys(bad))
        said.append(f"{len(bad)} of {len(runs)} seeds did not end well ({which}).")
    if early:
        which = ", ".join(end.removeprefix("finished ") for end in dict.fromkeys(early))
        said.append(
            f"{len(early)} of {len(runs)} seeds stopped once their score no longer "
            f"improved ({which})."
        )
    return said


def _finiteness(runs: list[RunRecord]) -> list[str]:
    bad, steps = counts(runs, "loss not finite")
    if not bad:
        return []
    first = min(
        int(run.column("loss").non_finite_steps[0])
        for run in runs
        if len(run.column("loss").non_finite_steps)
    )
    return [
        f"the loss was not finite on {bad} of {steps} steps ({share(bad, steps)}), "
        f"first at step {first}."
    ]


def _refusals(runs: list[RunRecord]) -> list[str]:
    said = []
    refused, steps = counts(runs, "refused")
    if refused:
        said.append(f"{refused} of {steps} steps refused ({share(refused, steps)}).")
    clipped, _ = counts(runs, "clipped")
    if steps and clipped / steps >= 0.5:
        said.append(
            f"gradients were clipped on {share(clipped, steps)} of the steps: the "
            "bound, not the loss, sets the size of the gradient."
        )
    return said


def _components(runs: list[RunRecord]) -> list[str]:
    names = sorted({name for run in runs for name in run.columns})
    said = []
    for raw in (name for name in names if name.startswith("raw/")):
        weighted = "weighted/" + raw.removeprefix("raw/")
        said += _growth(runs, raw)
        said += _pinned(runs, raw, weighted) or _constant(runs, raw)
    return said


def _growth(runs: list[RunRecord], name: str) -> list[str]:
    """Tell of a component whose size grew a hundredfold."""
    early = np.concatenate(
        [np.zeros(0), *(run.column(name).finite.values[:10] for run in runs)]
    )
    values = column_values(runs, name)
    values = values[np.isfinite(values)]
    if not len(early):
        return []
    start = float(np.median(np.abs(early)))
    extreme = float(values[np.argmax(np.abs(values))])
    if abs(extreme) < 100.0 * max(start, 1.0):
        return []
    return [
        f"{name} reached {show(extreme)}, from a size of {show(start)} in its first "
        "steps."
    ]


def _pinned(runs: list[RunRecord], raw: str, weighted: str) -> list[str]:
    """Tell of a component that sits at a bound while what it bounds still moves.

    Where the bounded value repeats exactly and the raw one differs, the bound is
    locally constant: its derivative, and so the component's gradient, is zero.
    """
    pinned = steps = 0
    levels: set[float] = set()
    for run in runs:
        inner, outer = run.column(raw).values, run.column(weighted).values
        steps += len(outer)
        if len(inner) < LEAST_STEPS or len(inner) != len(outer):
            continue
        known = np.isfinite(inner) & np.isfinite(outer)
        for edge in {outer[known].min(), outer[known].max()} if known.any() else ():
            here = known & (outer == edge)
            if here.sum() >= 0.05 * len(outer) and len(np.unique(inner[here])) > 1:
                pinned += int(here.sum())
                levels.add(float(edge))
    if not levels:
        return []
    level = " or ".join(show(edge) for edge in sorted(levels))
    return [
        f"{weighted} sat at exactly {level} on {share(pinned, steps)} of the steps "
        f"while {raw} moved: on those steps its gradient is zero."
    ]


def _constant(runs: list[RunRecord], name: str) -> list[str]:
    values = column_values(runs, name)
    values = values[np.isfinite(values)]
    if len(values) < LEAST_STEPS or not values.any():
        return []
    if np.ptp(values) > 1e-5 * np.abs(values).max():
        return []
    return [
        f"{name} stayed at {show(float(values[0]))} on every step: nothing the "
        "training did moved it."
    ]


def _separation(title: str, row: dict[str, Cell]) -> list[str]:
    """Say whether the seeds' ranges tell the arms apart; takes no side."""
    known = {arm: cell for arm, cell in row.items() if cell.finite}
    if len(known) < 2:
        return []
    ordered = sorted(known, key=lambda arm: known[arm].median)
    low, high = ordered[0], ordered[-1]
    text = f"{title}: from {_at(low, known)} to {_at(high, known)}"
    if known[low].median == known[high].median:
        return [f"{title}: the same median in every arm ({show(known[low].median)})."]
    fewest = min(len(cell.finite) for cell in known.values())
    if fewest < 2:
        return [f"{text}; one seed each, so the spread between seeds is not known."]
    if known[low].range[1] >= known[high].range[0]:
        return [
            f"{text}; these ranges over seeds overlap, so these runs do not tell "
            "the arms apart."
        ]
    return [f"{text}; these two ranges, over {fewest} seeds each, do not overlap."]


def _at(arm: str, row: dict[str, Cell]) -> str:
    return f"{show(row[arm].median, row[arm].digits)} ({arm})"
