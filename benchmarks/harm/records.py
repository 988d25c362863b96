"""The lines of a results file: what was run is kept, and is not run again."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]


class Records:
    """A file of one JSON object per line; the first says what the others depend on.

    Args:
        path: The file; it need not exist.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self.lines: list[Line] = []
        if path.exists():
            found = [json.loads(text) for text in path.read_text().splitlines()]
            self.lines = [line for line in found if "about" not in line]

    def of(self, run: str) -> list[Line]:
        """Return the lines of one run."""
        return [line for line in self.lines if line["run"] == run]

    def forget(self, settings: Mapping[str, Sequence[str]]) -> None:
        """Leave out the lines of these settings, by run, to run them again."""
        self.lines = [
            line
            for line in self.lines
            if line["setting"] not in settings.get(line["run"], ())
        ]

    def begin(self, about: Line) -> None:
        """Write the file anew: the first line, and the lines that are kept."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = [{"about": about}, *self.lines]
        part = self.path.with_suffix(".part")
        part.write_text("".join(_written(line) for line in whole))
        part.replace(self.path)

    def add(self, line: Line) -> None:
        """Append a line to the file."""
        self.lines.append(line)
        with self.path.open("a") as file:
            file.write(_written(line))


def _written(line: Line) -> str:
    """Return a line of the file, with the digits that mean something."""
    return json.dumps(_rounded(line), separators=(",", ":")) + "\n"


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value
