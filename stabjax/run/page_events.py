"""What happened in a run: outcome, alerts and refusals, gathered for reading."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float

from stabjax.run.page_numbers import evaluation_figures
from stabjax.run.page_records import Column, RunRecord, as_number

QUIET = frozenset({"evaluation", "checkpoint", "start", "finished"})
COMPONENT = "first_bad_component"
STRIP_BUCKETS = 200


@dataclasses.dataclass(frozen=True)
class EventGroup:
    """Events of one cause: the number of its steps, the first and the last one."""

    first: int | None
    last: int | None
    times: int
    cause: str
    where: str
    suggestion: str
    seeds: tuple[str, ...] = ()

    @property
    def steps(self) -> str:
        """The steps as text: one, or from first to last."""
        if self.first is None:
            return ""
        if self.first == self.last:
            return f"{self.first}"
        return f"{self.first} to {self.last}"


def kind_of(event: dict[str, Any]) -> str:
    """Return what sort of event this is, in lower case; empty if it does not say."""
    for key in ("event", "kind", "type"):
        if isinstance(event.get(key), str):
            return event[key].lower()
    return ""


def step_of(event: dict[str, Any]) -> int | None:
    """Return the event's step, or None."""
    step = as_number(event.get("step"))
    return int(step) if step is not None and np.isfinite(step) else None


def group_events(runs: list[tuple[str, RunRecord]]) -> list[EventGroup]:
    """Gather the events of one or more runs by cause and place.

    Args:
        runs: Label (the seed) and record.

    Returns:
        One group per cause, leaf and component, ordered by the first step.
    """
    found: dict[tuple[str, str, str], dict[str, set[int | None]]] = {}
    for label, run in runs:
        spans = _alert_spans(run)
        for event in run.events:
            if kind_of(event) in QUIET:
                continue
            cause = event.get("cause") or event.get("message") or kind_of(event)
            place = [event.get("component"), event.get("leaf"), _subject(event)]
            where = ", ".join(str(part) for part in place if part not in (None, "", -1))
            key = (_text(cause) or "event", where, _text(event.get("suggestion")))
            at = found.setdefault(key, {}).setdefault(label, set())
            at.add(step_of(event))
            at.update(spans.get(_alert_key(run, event), ()))
    groups = []
    for (cause, where, suggestion), by_label in found.items():
        steps = [s for at in by_label.values() for s in at if s is not None]
        groups.append(
            EventGroup(
                first=min(steps, default=None),
                last=max(steps, default=None),
                times=sum(len(at) for at in by_label.values()),
                cause=cause,
                where=where,
                suggestion=suggestion,
                seeds=tuple(by_label),
            )
        )
    return sorted(groups, key=lambda g: (g.first is None, g.first or 0, g.cause))


def _subject(event: dict[str, Any]) -> str:
    """Return what an alert of a guard is about, such as ``loss of metric_range#2``."""
    if not event.get("subject"):
        return _text(event.get("guard"))
    return f"{_text(event['subject'])} ({_text(event.get('guard'))})"


def _alert_spans(run: RunRecord) -> dict[tuple[str, float, float], list[int]]:
    """Return the steps of each alert, told apart by the leaf and component it names.

    The log reports an alert when it starts; the telemetry has each of its steps.
    """
    spans: dict[tuple[str, float, float], list[int]] = {}
    leaves, components = _at_step(run, "first_bad_leaf"), _at_step(run, COMPONENT)
    for step, names in run.alerts.items():
        for name in names:
            key = (name, leaves.get(step, -1.0), components.get(step, -1.0))
            spans.setdefault(key, []).append(step)
    return spans


def _alert_key(run: RunRecord, event: dict[str, Any]) -> tuple[str, float, float]:
    step = step_of(event)
    name = _text(event.get("alert")).lower()
    if step is None:
        return name, -1.0, -1.0
    leaf, component = run.column("first_bad_leaf"), run.column(COMPONENT)
    return name, _value_at(leaf, step), _value_at(component, step)


def _at_step(run: RunRecord, name: str) -> dict[int, float]:
    column = run.column(name)
    return dict(zip(column.steps.tolist(), column.values.tolist(), strict=True))


def _value_at(column: Column, step: int) -> float:
    index = int(np.searchsorted(column.steps, step))
    known = index < len(column.steps) and column.steps[index] == step
    return float(column.values[index]) if known else -1.0


def evaluations(run: RunRecord) -> tuple[list[str], list[tuple[int | None, list[Any]]]]:
    """Return the evaluations as a table: the figures' names, and a row per step."""
    rows = [
        (step_of(event), evaluation_figures(event))
        for event in run.events
        if kind_of(event) == "evaluation"
    ]
    names = sorted({name for _, figures in rows for name in figures})
    return names, [(step, [row.get(name) for name in names]) for step, row in rows]


def outcome(run: RunRecord) -> str:
    """Say how the run ended, from its events and its last step."""
    for event in reversed(run.events):
        kind = kind_of(event)
        if kind == "finished" and event.get("diverged"):
            return "diverged"
        if kind in ("halted", "failed"):
            step = step_of({"step": event.get("at")}) if "at" in event else None
            step = step_of(event) if step is None else step
            return kind if step is None else f"{kind} at step {step}"
    if not len(run.steps):
        return "no step recorded"
    train = run.config.get("train")
    planned = as_number(train.get("steps")) if isinstance(train, dict) else None
    done = int(run.steps[-1]) + 1
    early = any(kind_of(e) == "finished" and e.get("early") for e in run.events[-1:])
    if early:
        return f"finished early after {done} of {int(planned or done)} steps"
    if planned is not None and done < planned:
        return f"stopped after {done} of {int(planned)} steps"
    return "finished"


def marked_steps(run: RunRecord) -> dict[str, np.ndarray]:
    """Return the steps that were refused, clipped, not finite, or raised an alert."""
    accepted, scale = run.column("accepted"), run.column("gradient_scale")
    clipped = set(scale.steps[scale.values < 1.0].tolist())
    other = []
    for step, names in run.alerts.items():
        if "clipped" in names:
            clipped.add(step)
        if any(name != "clipped" for name in names):
            other.append(step)
    return {
        "refused": accepted.steps[accepted.values == 0.0],
        "clipped": np.asarray(sorted(clipped), np.int64),
        "loss not finite": run.column("loss").non_finite_steps,
        "alert": np.asarray(other, np.int64),
    }


def step_shares(
    runs: list[RunRecord], kind: str, last_step: int
) -> Float[np.ndarray, " buckets"]:
    """Return, bucket by bucket, the share of recorded steps marked ``kind``."""
    return bucket_shares([(marked_steps(r)[kind], r.steps) for r in runs], last_step)


def bucket_shares(
    pairs: list[tuple[np.ndarray, np.ndarray]], last_step: int
) -> Float[np.ndarray, " buckets"]:
    """Return the share of marked among recorded steps in each bucket of the axis.

    Args:
        pairs: Marked and recorded steps of each run.
        last_step: Right end of the step axis.
    """
    width = max(1, -(-(last_step + 1) // STRIP_BUCKETS))
    buckets = last_step // width + 1
    marked, recorded = np.zeros(buckets), np.zeros(buckets)
    for some, every in pairs:
        np.add.at(marked, np.clip(some // width, 0, buckets - 1), 1)
        np.add.at(recorded, np.clip(every // width, 0, buckets - 1), 1)
    return marked / np.maximum(recorded, 1)


def counts(runs: list[RunRecord], kind: str) -> tuple[int, int]:
    """Return how many steps of all runs are marked ``kind``, and how many there are."""
    marked = sum(len(marked_steps(run)[kind]) for run in runs)
    return marked, sum(len(run.steps) for run in runs)


def _text(value: Any) -> str:
    return "" if value is None else str(value)
