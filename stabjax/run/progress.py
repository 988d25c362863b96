"""What a person sees while a run goes: a live line, or plain lines, or nothing."""

import io
import math
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]
PLAIN_EVERY = 5.0  # seconds between two plain lines


class Silent:
    """Shows nothing; also the interface of the others."""

    def start(self, done: int, total: int) -> None:
        """Begin at step ``done`` of ``total``."""

    def rows(self, rows: Rows, counts: Mapping[str, int], text: str = "") -> None:
        """Take the rows of a window, the alert counts so far and the model's words."""

    def say(self, message: str) -> None:
        """Show a message that stays."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Plain(Silent):
    """Writes a line every few seconds; for logs and pipes.

    Args:
        out: Where to; standard error by default.
    """

    def __init__(self, out: io.TextIOBase | None = None):
        self._out: Any = out or sys.stderr
        self._total = 0
        self._shown = -math.inf
        self._rate = _Rate(0)

    def start(self, done: int, total: int) -> None:
        """Begin at step ``done`` of ``total``."""
        self._total = total
        self._rate = _Rate(done)

    def rows(self, rows: Rows, counts: Mapping[str, int], text: str = "") -> None:
        """Write a line, and the text, if the last one is old enough."""
        now = time.monotonic()
        last = bool(rows) and rows[-1]["step"] + 1 >= self._total
        if rows and (last or now - self._shown >= PLAIN_EVERY):
            self._shown = now
            line = summary(rows[-1], counts, self._total, self._rate)
            self.say("\n".join([line, text]).rstrip())

    def say(self, message: str) -> None:
        """Write a line."""
        print(message, file=self._out, flush=True)


class Live(Plain):
    """Keeps one live panel at the bottom of a terminal, by rich."""

    def __init__(self) -> None:
        super().__init__()
        import rich.console
        import rich.live

        console = rich.console.Console(stderr=True)
        self._live = rich.live.Live(console=console, auto_refresh=False)
        self._live.start()

    def rows(self, rows: Rows, counts: Mapping[str, int], text: str = "") -> None:
        """Refresh the panel."""
        import rich.text

        if rows:
            line = summary(rows[-1], counts, self._total, self._rate)
            panel = rich.text.Text("\n".join([line, text]).rstrip())
            self._live.update(panel, refresh=True)

    def say(self, message: str) -> None:
        """Write a line above the panel."""
        self._live.console.print(message, markup=False, highlight=False)

    def close(self) -> None:
        """Leave the last panel standing."""
        self._live.stop()


def make(progress: bool) -> Silent:
    """Return the display for this terminal, or the silent one."""
    if not progress:
        return Silent()
    return Live() if sys.stderr.isatty() else Plain()


class _Rate:
    def __init__(self, done: int):
        self._done = done
        self._since: float | None = None

    def at(self, step: int) -> float | None:
        """Return steps per second; the first call, which saw XLA compile, starts it."""
        now = time.monotonic()
        if self._since is None:
            self._since, self._done = now, step
            return None
        return (step - self._done) / max(now - self._since, 1e-9)


def summary(
    row: Mapping[str, Any], counts: Mapping[str, int], total: int, rate: _Rate
) -> str:
    """Return one line on the state of the run."""
    done = row["step"] + 1
    parts = [f"step {done}/{total}", f"loss {row['loss']:.5g}"]
    if "grad_norm" in row:
        parts.append(f"grad norm {row['grad_norm']:.3g}")
    if row.get("refused_total"):
        parts.append(f"refused {row['refused_total']}")
    parts += [f"{name} {count}" for name, count in sorted(counts.items())]
    speed = rate.at(done)
    if speed:
        parts.append(f"{speed:.3g} steps/s")
    return "  ".join(parts)
