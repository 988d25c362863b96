"""Tables of measurements, from a file or drawn: names, numbers, what is missing."""

import csv
import dataclasses
import difflib
import importlib
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from stabjax.models.causal.data_config import Data
from stabjax.models.causal.sensors import draw_sensors

__all__ = ["AIR_QUALITY_FILE", "Table", "load_table", "read_csv"]

AIR_QUALITY_FILE = "AirQualityUCI.csv"
_AIR_QUALITY_ID = 360
_AIR_QUALITY_MISSING = (-200.0,)


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows in order of time.

    Attributes:
        names: Of the columns.
        values: [rows, columns] float64 in the unit of each column; NaN where missing.
        truth: Which column causes which, [cause, effect], or None if nobody knows.
    """

    names: tuple[str, ...]
    values: np.ndarray
    truth: np.ndarray | None = None


def load_table(data: Data, *, seed: int) -> Table:
    """Return the table that ``data`` describes.

    Args:
        data: The ``model.data:`` section.
        seed: Draws the synthetic sensors unless ``data.graph_seed`` does.

    Returns:
        The table; its truth is that of the synthetic graph, or ``known_edges``.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If Air Quality is neither a file here nor to be downloaded.
        ValueError: If the file is not such a table, or a column is not in it.
    """
    if data.source == "sensors":
        drawn = draw_sensors(data, seed if data.graph_seed is None else data.graph_seed)
        table = Table(drawn.names, _without_codes(drawn.values, (drawn.code,)))
        table = dataclasses.replace(table, truth=drawn.truth)
    elif data.source == "csv":
        table = read_csv(
            _find(data.path or ""),
            separator=data.separator,
            decimal=data.decimal,
            missing=data.missing,
            columns=data.columns,
        )
    else:
        table = _air_quality(data)
    if data.known_edges:
        table = dataclasses.replace(table, truth=_known(table.names, data.known_edges))
    return table


def read_csv(
    path: str | os.PathLike,
    *,
    separator: str = ",",
    decimal: str = ".",
    missing: Sequence[float] = (),
    columns: Sequence[str] = (),
) -> Table:
    r"""Read a text table with a header.

    An empty cell is missing, and so is a row without cells. What else is missing has a
    code. Without ``columns``, those are read that hold a number and, besides, nothing
    but numbers and empty cells: dates and remarks are left out.

    Args:
        path: A file in UTF-8.
        separator: Between cells.
        decimal: Decimal mark.
        missing: Numbers that stand for a missing value.
        columns: Names of the columns to read, in this order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a column is unknown, a cell is no number, or nothing is left.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        ...     _ = file.write("day;a;b\n1/3;2,5;-200\n2/3;;7\n")
        ...     file.flush()
        ...     table = read_csv(file.name, separator=";", decimal=",", missing=[-200.])
        >>> table.names, table.values.tolist()
        (('a', 'b'), [[2.5, nan], [nan, 7.0]])
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file, delimiter=separator))
    header = [name.strip() for name in rows[0]] if rows else []
    cells = [row + [""] * (len(header) - len(row)) for row in rows[1:]]
    for name in columns:
        _check_known(name, header, str(path))
    taken = [header.index(name) for name in columns] or range(len(header))
    kept: dict[str, np.ndarray] = {}
    for place in taken:
        numbers, fault = _numbers([row[place] for row in cells], decimal)
        if fault is not None and columns:
            raise ValueError(
                f"read_csv: column {header[place]!r} must hold numbers, got "
                f"{cells[fault][place]!r} in row {fault + 2} of {path}."
            )
        if fault is None and not np.all(np.isnan(numbers)):
            kept[header[place] or f"column {place + 1}"] = numbers
    if len(kept) < 2:
        raise ValueError(
            f"read_csv: {path} must have at least two columns of numbers, got "
            f"{len(kept)}; is the separator {separator!r} and the decimal mark "
            f"{decimal!r}?"
        )
    values = np.stack(list(kept.values()), axis=1)
    return Table(tuple(kept), _without_codes(values, missing))


def _numbers(cells: list[str], decimal: str) -> tuple[np.ndarray, int | None]:
    """Return a column's numbers, and the place of the first cell that is none."""
    values = np.full(len(cells), np.nan)
    for place, cell in enumerate(cells):
        text = cell.strip()
        if text:
            try:
                values[place] = float(text.replace(decimal, "."))
            except ValueError:
                return values, place
    return values, None


def _without_codes(values: np.ndarray, codes: Sequence[float]) -> np.ndarray:
    return np.where(np.isin(values, np.asarray(codes, float)), np.nan, values)


def _air_quality(data: Data) -> Table:
    """Read UCI Air Quality from the file, if it is here, else download it."""
    path = data.path or AIR_QUALITY_FILE
    try:
        found = _find(path)
    except FileNotFoundError:
        if data.path is not None:
            raise
        return _download(data.columns)
    return read_csv(
        found,
        separator=";",
        decimal=",",
        missing=_AIR_QUALITY_MISSING,
        columns=data.columns,
    )


def _download(columns: Sequence[str]) -> Table:
    try:
        repository: Any = importlib.import_module("ucimlrepo")
    except ImportError as error:
        raise ImportError(
            f"causal: {AIR_QUALITY_FILE} must be named by model.data.path, lie in the "
            "folder STABJAX_DATA, or be downloaded with the extra: "
            "pip install 'stabjax[causal]'."
        ) from error
    frame = repository.fetch_ucirepo(id=_AIR_QUALITY_ID).data.features
    names = [str(name) for name in frame.columns if str(name) not in ("Date", "Time")]
    for name in columns:
        _check_known(name, names, "UCI Air Quality")
    names = list(columns) or names
    values = np.stack([np.asarray(frame[name], float) for name in names], axis=1)
    return Table(tuple(names), _without_codes(values, _AIR_QUALITY_MISSING))


def _find(path: str) -> pathlib.Path:
    """Return the file, as named or in the folder STABJAX_DATA."""
    here = pathlib.Path(path).expanduser()
    folder = os.environ.get("STABJAX_DATA")
    for candidate in [here] + ([pathlib.Path(folder) / here] if folder else []):
        if candidate.is_file():
            return candidate
    where = f" or in STABJAX_DATA={folder}" if folder else "; STABJAX_DATA is not set"
    raise FileNotFoundError(f"load_table: no file {here}{where}.")


def _known(names: tuple[str, ...], edges: Sequence[tuple[str, str]]) -> np.ndarray:
    truth = np.zeros((len(names), len(names)), bool)
    for edge in edges:
        for name in edge:
            _check_known(name, names, "known_edges")
        truth[names.index(edge[0]), names.index(edge[1])] = True
    return truth


def _check_known(name: str, names: Sequence[str], source: str) -> None:
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        raise ValueError(
            f"load_table: {source} must name a column among {list(names)}, "
            f"got {name!r}{hint}"
        )
