"""Telemetry off the device: one window late, without stopping the steps."""

import collections
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stabjax.health import TelemetrySchema, decode


class LateFetch:
    """Reads the telemetry ring of window *k* while window *k + 1* is running.

    The ring is donated with the state, so it is first copied on the device; the copy
    travels to the host in the background and is read a window later.

    Args:
        schema: Names of the ring's columns.
        next_step: First step to be returned; each is returned exactly once.
    """

    def __init__(self, schema: TelemetrySchema, next_step: int = 0):
        self._schema = schema
        self._next = next_step
        self._pending: tuple[jax.Array, jax.Array] | None = None

    def push(self, telemetry: Any) -> list[dict[str, Any]]:
        """Start fetching this window's ring; return the rows of the one before.

        Args:
            telemetry: The state's ring, ``.floats`` and ``.ints``. Must be called at
                least once per ring length, or rows are overwritten unseen.
        """
        late, self._pending = self._pending, _start_copy(telemetry)
        return self._read(late)

    def drain(self, telemetry: Any = None) -> list[dict[str, Any]]:
        """Wait for every row up to now.

        Args:
            telemetry: The ring as it is now, or None if its buffers are lost.
        """
        late, self._pending = self._pending, None
        rows = self._read(late)
        return rows + self._read(None if telemetry is None else _start_copy(telemetry))

    def _read(self, ring: tuple[jax.Array, jax.Array] | None) -> list[dict[str, Any]]:
        if ring is None:
            return []
        rows = decode(self._schema, *(np.asarray(part) for part in ring))
        new = [row for row in rows if row["step"] >= self._next]
        if new:
            self._next = new[-1]["step"] + 1
        return new


def _start_copy(telemetry: Any) -> tuple[jax.Array, jax.Array]:
    copies = jnp.copy(telemetry.floats), jnp.copy(telemetry.ints)
    for copy in copies:
        copy.copy_to_host_async()
    return copies


class Backlog:
    """Bounds how far the host may run ahead of the device, by time.

    The device always has work waiting, so it never idles; but no more than about
    ``seconds`` of it, so that batches in flight stay few and a stop request is answered
    soon. The depth adapts to the measured time of a step.

    Args:
        most: Largest number of steps in flight, >= 2.
        seconds: Work allowed in flight [s].
        clock: Monotonic time [s].
    """

    def __init__(
        self,
        most: int,
        seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._most = max(2, most)
        self._seconds = seconds
        self._clock = clock
        self._handles: collections.deque[Any] = collections.deque()
        self._step_time = seconds / 2  # start at a depth of two
        self._last: float | None = None

    @property
    def depth(self) -> int:
        """Steps allowed in flight now."""
        fits = self._seconds / max(self._step_time, 1e-9)
        return int(min(max(fits, 2), self._most))

    def add(self, handle: Any) -> None:
        """Note a dispatched step; wait for an old one if too many are in flight."""
        self._handles.append(handle)
        while len(self._handles) > self.depth:
            jax.block_until_ready(self._handles.popleft())
            now = self._clock()
            if self._last is not None:
                self._step_time += 0.25 * (now - self._last - self._step_time)
            self._last = now

    def clear(self) -> None:
        """Forget the handles, after everything was waited for or lost."""
        self._handles.clear()
        self._last = None
