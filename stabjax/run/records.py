"""Strict JSON lines: one object per line, appended, cut back on resume.

JSON has no NaN, so non-finite numbers are written as the text ``"nan"``, ``"inf"`` or
``"-inf"``; ``float(value)`` reads a number either way.
"""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from stabjax.run.folder import private


def encode(record: Mapping[str, Any]) -> str:
    """Return one line of strict JSON, without its newline.

    Example:
        >>> encode({"step": 3, "loss": float("nan"), "norm": np.float32(0.1)})
        '{"step":3,"loss":"nan","norm":0.1}'
    """
    return json.dumps(_strict(record), allow_nan=False, separators=(",", ":"))


def _strict(value: Any) -> Any:
    if getattr(value, "dtype", None) == np.float32 and math.isfinite(value):
        return float(str(value))  # the shortest text that reads back to it
    if hasattr(value, "item"):  # any other numpy or jax scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # "nan", "inf", "-inf"
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value


class JsonLines:
    """An append-only file of records that knows its length in bytes.

    Args:
        path: The file; created if absent.
        keep: Length to cut an existing file to [bytes], or None to keep whole lines.
            Whatever follows the last whole line within it is dropped: a torn tail.
    """

    def __init__(self, path: pathlib.Path, keep: int | None = None):
        descriptor = private(str(path), os.O_RDWR | os.O_CREAT)
        self._file = os.fdopen(descriptor, "r+b")
        self.size = self._cut(keep)
        self.complete = keep is None or self.size == keep

    def _cut(self, keep: int | None) -> int:
        length = self._file.seek(0, os.SEEK_END)
        length = length if keep is None else min(length, keep)
        while length:
            start = max(0, length - 65536)
            self._file.seek(start)
            newline = self._file.read(length - start).rfind(b"\n")
            if newline >= 0:
                length = start + newline + 1
                break
            length = start
        self._file.truncate(length)
        self._file.seek(length)
        return length

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one record; buffered until `flush`."""
        line = encode(record).encode() + b"\n"
        self._file.write(line)
        self.size += len(line)

    def flush(self, *, durable: bool = False) -> None:
        """Hand what was written to the system; with ``durable``, to the disk."""
        self._file.flush()
        if durable:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Flush and close."""
        self._file.close()


def read_lines(path: pathlib.Path, start: int = 0) -> list[dict[str, Any]]:
    """Return the whole records of a file from byte ``start`` on; skip torn ones."""
    if not path.exists():
        return []
    with open(path, "rb", opener=private) as file:
        file.seek(start)
        lines = file.read().split(b"\n")[:-1]
    records = []
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
