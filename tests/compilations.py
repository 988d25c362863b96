"""Count what XLA compiles, which a jitted function's own cache does not always tell.

The cache of a jitted function is bounded for the whole process: in a long run its
entries may be gone although nothing was compiled twice.
"""

import contextlib
from collections.abc import Iterator

import jax.monitoring

_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """Yield a list that grows by the name of each program compiled inside."""
    compiled: list[str] = []

    def listen(event: str, duration: float, **facts: object) -> None:
        del duration
        if event == _EVENT:
            compiled.append(str(facts.get("fun_name")))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
