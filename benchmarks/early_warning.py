"""Does anything warn before a run diverges, without crying wolf on healthy ones?

    python benchmarks/early_warning.py

The runs of the harm bench, once as they are and once with a learning rate that grows
from 1 to 1000 times over their second half. A run has diverged from the step after
which the loss is never again, as the median of ten steps, below its largest of the
first ten, or not finite. Three detectors watch three signals, each against its own
past alone:

- jump: the logarithm is more than k deviations above its running mean,
- CUSUM: the sum of what it is above the mean by more than half a deviation exceeds k,
- tail: the kurtosis of the last 50 changes of the logarithm exceeds k.

Each k is the smallest with at most one alarm per 1000 healthy steps on one half of the
runs; what is reported is of the other half. Writes benchmarks/results/
early_warning.jsonl, one line per detector and signal.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys
from collections.abc import Callable, Sequence

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import optax
from harm.plan import half_of
from harm.run import Run
from harm.runs import RUNS
from harm.series import series_of

RESULTS = pathlib.Path(__file__).parent / "results" / "early_warning.jsonl"
SIGNALS = ("loss", "grad_norm", "update_ratio")
WARMUP, DECAY, WINDOW = 20, 0.97, 50
HOTTEST, PER_1000 = 1000.0, 1.0

Scores = np.ndarray


def heated(run: Run) -> Run:
    """Return the run with a learning rate that grows over its second half."""
    micro = 1 if run.every_step_moves else 4  # counts emitted steps at most so often
    half = max(run.steps // (2 * micro), 1)

    def factor(count):
        return HOTTEST ** ((count - half) / half).clip(0.0, 1.0)

    def optimizer() -> optax.GradientTransformation:
        return optax.chain(run.optimizer(), optax.scale_by_schedule(factor))

    return dataclasses.replace(run, optimizer=optimizer)


def diverged_at(loss: np.ndarray) -> int | None:
    """Return the step from which the run is lost, or None if it never is."""
    steps = len(loss)
    worst = np.nanmax(loss[:10])
    level = np.array([np.median(loss[max(0, t - 9) : t + 1]) for t in range(steps)])
    sound = np.flatnonzero(level <= worst)
    last = int(sound[-1]) if sound.size else -1
    return None if last >= steps - 2 or last < steps // 2 else last + 1


def standardized(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logarithms, and how many running deviations each is above the mean."""
    logs = np.log(np.maximum(np.abs(values), 1e-30))
    logs = np.where(np.isfinite(values), logs, 88.0)
    mean, square = logs[0], 0.05**2
    found = np.zeros(len(logs))
    for step, x in enumerate(logs):
        if step >= WARMUP:
            found[step] = (x - mean) / np.sqrt(square)
        rate = max(1 - DECAY, 1 / (step + 1))
        square = max((1 - rate) * square + rate * (x - mean) ** 2, 1e-6)
        mean += rate * (x - mean)
    return logs, found


def jump(values: np.ndarray) -> Scores:
    """Return how many deviations above its mean each step is."""
    return standardized(values)[1]


def cusum(values: np.ndarray) -> Scores:
    """Return the one-sided cumulative sum; an alarm at k would start it anew."""
    _, above = standardized(values)
    sums = np.zeros(len(above))
    for step in range(1, len(above)):
        sums[step] = max(0.0, sums[step - 1] + min(above[step], 10.0) - 0.5)
    return sums


def tail(values: np.ndarray) -> Scores:
    """Return the kurtosis of the last changes of the logarithm."""
    logs, _ = standardized(values)
    changes = np.diff(logs, prepend=logs[0])
    scores = np.zeros(len(logs))
    for step in range(WINDOW, len(logs)):
        part = changes[step - WINDOW : step + 1]
        part = part - part.mean()
        variance = max(float(np.mean(part**2)), 1e-12)
        scores[step] = np.mean(part**4) / variance**2
    return scores


DETECTORS: dict[str, Callable[[np.ndarray], Scores]] = {
    "jump": jump,
    "CUSUM": cusum,
    "tail": tail,
}


def alarms(scores: Scores, limit: float) -> np.ndarray:
    """Return the steps at which an alarm begins."""
    over = scores > limit
    return np.flatnonzero(over & ~np.concatenate([[False], over[:-1]]))


def limit_for(healthy: Sequence[Scores]) -> float:
    """Return the smallest limit with so few alarms on healthy steps."""
    allowed = PER_1000 * sum(len(scores) for scores in healthy) / 1000
    limits = np.unique(np.concatenate([*healthy, [0.0]]))
    low, high = 0, len(limits) - 1
    while low < high:  # the number of alarms hardly rises with the limit
        middle = (low + high) // 2
        if sum(len(alarms(s, limits[middle])) for s in healthy) <= allowed:
            high = middle
        else:
            low = middle + 1
    return float(limits[low])


def row_of(detector: str, signal: str, series: list[dict]) -> dict:
    """Return what a detector does on a signal."""
    score = DETECTORS[detector]
    choose = [score(s[signal]) for s in series if s["half"] == "choose" and s["sound"]]
    limit = limit_for(choose)
    report = [s for s in series if s["half"] == "report"]
    sound = [score(s[signal]) for s in report if s["sound"]]
    false = sum(len(alarms(scores, limit)) for scores in sound)
    leads = []
    for run in report:
        if run["lost"] is not None:
            at = alarms(score(run[signal]), limit)
            begins = run["steps"] // 2
            at = at[(at >= begins) & (at < run["lost"])]
            leads.append(run["lost"] - int(at[0]) if at.size else 0)
    quartiles = np.percentile(leads, [25, 50, 75]).round().astype(int).tolist()
    return {
        "detector": detector,
        "signal": signal,
        "limit": float(f"{limit:.3g}"),
        "false_per_1000": round(1000 * false / sum(map(len, sound)), 2),
        "diverging": len(leads),
        "warned": sum(lead > 0 for lead in leads),
        "lead_quartiles": quartiles,
    }


def collect(seeds: Sequence[int], only: str) -> list[dict]:
    """Return the signals of every run, sound and heated."""
    found = []
    for run in RUNS:
        if not isinstance(run, Run) or only not in run.name:
            continue
        for sound, variant in ((True, run), (False, heated(run))):
            arrays = series_of(variant, seeds)
            for seed in seeds:
                own = {s: arrays[f"{run.name}/{seed}/{s}"] for s in SIGNALS}
                lost = None if sound else diverged_at(own["loss"])
                facts = {"half": half_of(run.name), "sound": sound, "lost": lost}
                found.append({**own, **facts, "steps": run.steps})
        print(run.name, "lost at", lost, "of", run.steps, file=sys.stderr, flush=True)
    return found


def main() -> None:
    from facts import facts

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--runs", default="", help="part of the names of runs")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS)
    options = parser.parse_args()
    series = collect(range(options.seeds), options.runs)
    command = " ".join(["python", "benchmarks/early_warning.py", *sys.argv[1:]])
    lines = [{"about": {"command": command, **facts("stabjax")}}]
    for detector in DETECTORS:
        lines += [row_of(detector, signal, series) for signal in SIGNALS]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    options.results.write_text(text)
    print(text, end="")


if __name__ == "__main__":
    main()
