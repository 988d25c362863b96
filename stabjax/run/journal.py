"""health.jsonl, events.jsonl and run.json of one run, in step with its checkpoints."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax

from stabjax.config.schema import RunConfig
from stabjax.health import Alert, TelemetrySchema, explain, names_of
from stabjax.run.alerts import AlertLog
from stabjax.run.crash import versions
from stabjax.run.folder import write_atomically
from stabjax.run.records import JsonLines, encode, read_lines
from stabjax.run.sinks import HealthSink, Sink, TensorBoardSink

# Events that tell what happened to the process; they stay true when a run goes on from
# an earlier checkpoint. All others are written again with the steps they belong to.
HISTORY = frozenset({"start", "resume", "preempted", "failed", "checkpoint_damaged"})


class Journal:
    """Everything a run writes about itself.

    Args:
        folder: The run folder.
        schema: Names of the telemetry columns.
        health: The open health.jsonl.
        events: The open events.jsonl.
        alerts: Turns alert bits into events.
        sinks: Further takers of rows.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        schema: TelemetrySchema,
        health: JsonLines,
        events: JsonLines,
        alerts: AlertLog,
        sinks: tuple[Sink, ...] = (),
    ):
        self._folder, self._schema = folder, schema
        self._health, self._events = health, events
        self._sinks: tuple[Sink, ...] = (HealthSink(health), *sinks)
        self.alerts = alerts
        self._facts: dict[str, Any] = {}

    def row(self, row: Mapping[str, Any]) -> None:
        """Write one step's telemetry and the alerts that start with it."""
        for sink in self._sinks:
            sink.write(row)
        for event in self.alerts.see(row):
            self._events.write(event)

    def event(self, name: str, step: int, **details: Any) -> None:
        """Write one event; it is flushed at once, as events are rare."""
        self._events.write({"event": name, "step": step, **details})
        self._events.flush()

    def flush(self, *, durable: bool = False) -> None:
        """Hand everything written to the system, or to the disk."""
        for sink in self._sinks:
            sink.flush(durable=durable)
        self._events.flush(durable=durable)

    def mark(self) -> dict[str, Any]:
        """Return where the files stand, to cut them back to on resume."""
        return {
            "health_bytes": self._health.size,
            "events_bytes": self._events.size,
            "alerts_seen": self.alerts.state(),
            "alert_counts": self.alerts.counts,
        }

    def begin(self, config: RunConfig, *, resumed: bool, step: int) -> None:
        """Record the start of this process's part."""
        self._facts = {
            "name": self._folder.name,
            "model": config.model_name,
            "versions": versions(),
            "hardware": {
                "platform": jax.default_backend(),
                "device": jax.devices()[0].device_kind,
                "devices": jax.device_count(),
            },
            "leaves": list(self._schema.leaves),
            "components": list(self._schema.components),
        }
        self.event("resume" if resumed else "start", step, time=_now())
        self._write_facts(outcome="running", step=step)

    def end(self, outcome: str, step: int, seconds: float, **details: Any) -> None:
        """Record how this process's part ended."""
        if self._facts:
            self.event(outcome, step, time=_now(), **details)
            self.flush(durable=True)
            self._write_facts(
                outcome=outcome, step=step, seconds=round(seconds, 3), **details
            )

    def _write_facts(self, **now: Any) -> None:
        text = encode({**self._facts, **now, "alerts": self.alerts.counts})
        write_atomically(self._folder / "run.json", text + "\n")

    def close(self) -> None:
        """Flush and close all files."""
        for sink in self._sinks:
            sink.close()
        self._events.close()


def open_journal(
    folder: pathlib.Path,
    schema: TelemetrySchema,
    mark: Mapping[str, Any],
    *,
    step: int,
    tensorboard: bool = False,
) -> Journal:
    """Open the files, cut back to what a checkpoint knew of.

    Args:
        folder: The run folder.
        schema: Names of the telemetry columns.
        mark: What `Journal.mark` returned at the checkpoint; empty at the start.
        step: Steps done.
        tensorboard: Add a TensorBoard sink.
    """
    health_path, events_path = folder / "health.jsonl", folder / "events.jsonl"
    events_end = mark.get("events_bytes", 0)
    later = read_lines(events_path, events_end)
    health = JsonLines(health_path, mark.get("health_bytes", 0))
    events = JsonLines(events_path, events_end)
    for event in later:
        if event.get("event") in HISTORY:
            events.write(event)
    if not health.complete:
        lost = "health.jsonl is shorter than its checkpoint: steps are missing"
        events.write({"event": "log_incomplete", "step": step, "message": lost})
    alerts = AlertLog(
        names={bit.value: names_of(bit.value)[0] for bit in Alert},
        explain=lambda bit: explain(Alert(bit)),
        leaves=schema.leaves,
        components=schema.components,
        subjects=schema.subjects,
        last_seen=mark.get("alerts_seen", ()),
        counts=mark.get("alert_counts"),
    )
    sinks: tuple[Sink, ...] = ()
    if tensorboard:
        sinks = (TensorBoardSink(folder / "tensorboard", step),)
    return Journal(folder, schema, health, events, alerts, sinks)


def last_rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Return the last telemetry rows of a run, as many as 64 KiB hold."""
    size = (folder / "health.jsonl").stat().st_size
    return rows_from(folder, max(0, size - 65536))


def rows_from(folder: pathlib.Path, start: int = 0) -> list[dict[str, Any]]:
    """Return the telemetry rows of a run from a place in its file on [bytes]."""
    rows = read_lines(folder / "health.jsonl", start)
    return [
        {k: float(v) if isinstance(v, str) else v for k, v in row.items()}
        for row in rows
    ]


def evaluations(folder: pathlib.Path, every: int) -> list[dict[str, float]]:
    """Return the scores of the evaluations on schedule, oldest first.

    Args:
        folder: The run folder.
        every: Steps between two; 0: none is on schedule.
    """
    return [
        {name: float(value) for name, value in event["scores"].items()}
        for event in read_lines(folder / "events.jsonl")
        if event["event"] == "evaluation" and every and event["step"] % every == 0
    ]


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
