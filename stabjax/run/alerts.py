"""From alert bits per step to a short list of events."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

QUIET_STEPS = 100  # an alert that was silent this long is news again

Key = tuple[int, int, int, int]
_NO_GUARD = -1


class AlertLog:
    """Report an alert when it starts, not while it goes on.

    An alert is a bit together with the guard that raised it and the leaf and component
    it names. It is reported when it was not seen in the last `QUIET_STEPS` steps, so a
    thousand clipped steps make one event.

    Args:
        names: Alert bit to name.
        explain: Alert bit to ``(cause, suggestion)``.
        leaves: Names of the parameter leaves.
        components: Names of the loss components.
        subjects: For each guard its column of alert bits, and what they are about.
        last_seen: What `state` returned, to go on after a resume.
        counts: Steps per alert name until then.
    """

    def __init__(
        self,
        names: Mapping[int, str],
        explain: Callable[[int], tuple[str, str]],
        leaves: Sequence[str] = (),
        components: Sequence[str] = (),
        subjects: Sequence[tuple[str, str]] = (),
        last_seen: Iterable[Sequence[int]] = (),
        counts: Mapping[str, int] | None = None,
    ):
        self._names = names
        self._explain = explain
        self._leaves = leaves
        self._components = components
        self._subjects = subjects
        self._last: dict[Key, int] = {
            (bit, leaf, component, guard): step
            for bit, leaf, component, guard, step in last_seen
        }
        self.counts: dict[str, int] = dict(counts or {})

    def see(self, row: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the events that a telemetry row starts.

        Args:
            row: A decoded row with ``step``, ``alerts``, ``first_bad_leaf``,
                ``first_bad_component`` and the alert columns of the guards.
        """
        step = int(row["step"])
        leaf = int(row.get("first_bad_leaf", -1))
        component = int(row.get("first_bad_component", -1))
        events = []
        for bit in _bits(int(row["alerts"])):
            name = self._names.get(bit, f"ALERT_{bit.bit_length() - 1}")
            self.counts[name] = self.counts.get(name, 0) + 1
            for guard in self._ringing(row, bit):
                key = (bit, leaf, component, guard)
                before = self._last.get(key)
                self._last[key] = step
                if before is None or step - before > QUIET_STEPS:
                    events.append(self._event(name, key, step, row))
        return events

    def _ringing(self, row: Mapping[str, Any], bit: int) -> list[int]:
        """Return which guards raised a bit; the finite contract is none of them."""
        found = [
            index
            for index, (column, _) in enumerate(self._subjects)
            if int(row.get(column, 0)) & bit
        ]
        return found or [_NO_GUARD]

    def _event(
        self, name: str, key: Key, step: int, row: Mapping[str, Any]
    ) -> dict[str, Any]:
        bit, leaf, component, guard = key
        cause, suggestion = self._explain(bit)
        event = {
            "event": "alert",
            "step": step,
            "alert": name,
            "cause": cause,
            "leaf": named(self._leaves, leaf),
            "component": named(self._components, component),
            "suggestion": suggestion,
        }
        if guard != _NO_GUARD:
            column, subject = self._subjects[guard]
            event["guard"] = column.rpartition("/")[0]
            if subject:
                event |= {"subject": subject, "value": row.get(subject)}
        return event

    def state(self) -> list[list[int]]:
        """Return what a later `AlertLog` needs to go on, as plain data."""
        return [[*key, step] for key, step in self._last.items()]


def named(names: Sequence[str], index: int) -> str | None:
    """Return the name at ``index``, or None for -1."""
    return names[index] if 0 <= index < len(names) else None


def _bits(alerts: int) -> list[int]:
    """Return the bits that are set, lowest first."""
    return [1 << place for place in range(alerts.bit_length()) if alerts >> place & 1]
