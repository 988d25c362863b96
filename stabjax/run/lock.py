"""One writer per run folder, by a lock that the kernel releases with the process."""

import contextlib
import fcntl
import os
import pathlib
import socket
from collections.abc import Iterator


class RunLocked(RuntimeError):
    """Another process is writing this run folder."""


@contextlib.contextmanager
def hold(folder: pathlib.Path) -> Iterator[None]:
    """Hold the run folder's lock for the length of a ``with`` block.

    The lock file stays behind and means nothing: after ``kill -9`` the kernel has
    already let go, so there is no stale lock to remove.

    Raises:
        RunLocked: At once, if another process (or this one, twice) holds it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(folder / "lock", flags, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 200, 0).decode("utf-8", "replace").strip()
            raise RunLocked(
                f"{folder} is in use by {owner or 'another process'}; wait for it to "
                "end or choose another name."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, f"pid {os.getpid()} on {socket.gethostname()}\n".encode(), 0
        )
        yield
    finally:
        os.close(descriptor)
