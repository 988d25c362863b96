"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import os
import signal
import threading
from types import TracebackType
from typing import Any


class Preempted(Exception):
    """The run was asked to stop; the current step is checkpointed.

    Attributes:
        signal: The signal's number.
        step: Steps done.
        exit_code: 128 + signal: 143 for SIGTERM, 130 for Ctrl-C.
    """

    def __init__(self, number: int, step: int):
        self.signal = number
        self.step = step
        self.exit_code = 128 + number
        name = signal.Signals(number).name
        when = (
            f"after {step} steps, which are saved" if step else "before the first step"
        )
        super().__init__(f"stopped by {name} {when}")


class StopRequest:
    """Remember the first SIGINT or SIGTERM inside a ``with`` block.

    Later signals change nothing: the save under way is finished, and it is atomic, so
    even ``kill -9`` leaves the previous checkpoint intact. SIGINT is taken even where a
    shell started the process with it ignored (a background job).

    Attributes:
        signal: Number of the signal received, or None.
    """

    WATCHED = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python delivers signals to the main thread and lets only it set handlers.
        if threading.current_thread() is threading.main_thread():
            for number in self.WATCHED:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before.clear()

    def answer(self) -> None:
        """Raise `Preempted` if a signal has come, before there is anything to save."""
        if self.signal is not None:
            raise Preempted(self.signal, 0)

    def _remember(self, number: int, frame: Any) -> None:
        del frame
        if self.signal is None:
            self.signal = number
            os.write(2, b"\nstopping after the current step\n")
