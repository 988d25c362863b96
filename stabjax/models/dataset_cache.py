"""Generated data sets, kept on disk: made once, checked at every load.

A data set is cut into chunks, each a pure function of the seed and its index. So an
interrupted generation goes on where it stopped, a damaged chunk is made again alone,
and asking for more rows makes only the missing ones.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import os
import pathlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any

import numpy as np
import rich.console
import rich.progress

__all__ = [
    "Recipe",
    "cache_folder",
    "import_generator",
    "installed_versions",
    "load_generated",
]

Arrays = dict[str, np.ndarray]
Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a data set is made; whatever changes its rows must be named here.

    Attributes:
        name: Name of the data set, part of a file name.
        version: Versions of the generator and of the code around it; None if the
            generator is not installed, which any version on disk then stands in for.
        parameters: Every setting that the rows depend on, as JSON values.
        chunk: Rows of a chunk, at least 1.
        make: Seed and index of a chunk to named arrays of ``chunk`` rows.
    """

    name: str
    version: str | None
    parameters: Mapping[str, Any]
    chunk: int
    make: Callable[[int, int], Arrays]

    def folder(self, seed: int) -> str:
        """Return the name of the folder that holds these rows and no others."""
        return (
            f"{self.name}-{hashlib.sha256(self.text(seed).encode()).hexdigest()[:16]}"
        )

    def text(self, seed: int) -> str:
        """Return all that the rows depend on, as JSON."""
        recipe = {
            "name": self.name,
            "version": self.version,
            "parameters": dict(self.parameters),
            "chunk": self.chunk,
            "seed": seed,
        }
        return json.dumps(recipe, indent=2, sort_keys=True)


def load_generated(
    recipe: Recipe,
    rows: int,
    *,
    seed: int,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Arrays:
    """Return the first ``rows`` rows of a data set, generating what is not on disk.

    A complete data set on disk is read without its generator: it can be made on one
    machine and copied to another. Each chunk is one ``.npz`` file beside its SHA-256,
    as ``sha256sum`` writes it, which is verified before anything is read. A chunk whose
    checksum fails is said to be damaged and made again.

    Args:
        recipe: How the rows are made.
        rows: How many, at least 1.
        seed: Seed of the data set, at least 0.
        folder: Where data sets are kept; `cache_folder` by default.
        progress: Whether to show on standard error what is being made.

    Returns:
        The arrays by name, each of ``rows`` rows.

    Raises:
        ValueError: If ``rows``, ``seed`` or the recipe's ``chunk`` is out of range.
        ImportError: If rows are missing and so is the generator.
        OSError: If the folder cannot be written.
    """
    if rows < 1 or seed < 0 or recipe.chunk < 1:
        raise ValueError(
            f"load_generated: rows and chunk must be at least 1 and seed at least 0, "
            f"got {rows}, {recipe.chunk} and {seed}."
        )
    place = _place(recipe, seed, pathlib.Path(folder or cache_folder()))
    chunks = -(-rows // recipe.chunk)
    parts: dict[int, Arrays] = {}
    with _told(progress) as tell:
        for index in range(chunks):
            part = _read(_file(place, index), tell)
            if part is not None:
                parts[index] = part
        missing = [index for index in range(chunks) if index not in parts]
        for index in _shown(missing, recipe, progress):
            parts[index] = recipe.make(seed, index)
            _check(recipe, parts[index])
            _prepare(place, recipe.text(seed))
            _write(_file(place, index), parts[index])
        if missing:
            tell(f"{len(missing) * recipe.chunk} rows of {recipe.name} kept in {place}")
    return {
        name: np.concatenate([parts[index][name] for index in range(chunks)])[:rows]
        for name in parts[0]
    }


def cache_folder() -> pathlib.Path:
    """Return where data sets are kept.

    ``STABJAX_CACHE`` if it is set, otherwise ``stabjax`` in the user's cache folder:
    ``~/Library/Caches`` on macOS, ``%LOCALAPPDATA%`` on Windows, ``$XDG_CACHE_HOME``
    or ``~/.cache`` elsewhere.
    """
    if chosen := os.environ.get("STABJAX_CACHE"):
        return pathlib.Path(chosen).expanduser()
    home = pathlib.Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "stabjax"
    if sys.platform == "win32":
        return pathlib.Path(os.environ.get("LOCALAPPDATA", home)) / "stabjax" / "Cache"
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "stabjax"


def import_generator(package: str, *, data: str, extra: str) -> Any:
    """Import a generator's package.

    Args:
        package: The package to import.
        data: What needs it, for the message.
        extra: The extra of stabjax that installs it.

    Raises:
        ImportError: If it is missing; the message names the extra.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"{data} need {package}, which is not installed; install the extra: "
            f"pip install 'stabjax[{extra}]'."
        ) from error


def installed_versions(*packages: str) -> str | None:
    """Return the versions of packages as one line, or None if one is missing."""
    try:
        return ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    except metadata.PackageNotFoundError:
        return None


def _place(recipe: Recipe, seed: int, folder: pathlib.Path) -> pathlib.Path:
    """Return the folder of a data set; without its generator, of any version."""
    if recipe.version is None:
        wanted = json.loads(recipe.text(seed))
        for path in sorted(folder.glob(f"{recipe.name}-*/recipe.json")):
            with contextlib.suppress(ValueError, TypeError):
                if json.loads(path.read_bytes()) | {"version": None} == wanted:
                    return path.parent
    return folder / recipe.folder(seed)


@contextlib.contextmanager
def _told(progress: bool) -> Iterator[Tell]:
    console = rich.console.Console(stderr=True, quiet=not progress, soft_wrap=True)

    def tell(message: str) -> None:
        console.print(message, markup=False, highlight=False)

    yield tell


def _shown(chunks: list[int], recipe: Recipe, progress: bool) -> Iterator[int]:
    """Yield the chunks to make, under a bar that counts them."""
    bar = rich.progress.Progress(
        *rich.progress.Progress.get_default_columns(),
        rich.progress.MofNCompleteColumn(),
        console=rich.console.Console(stderr=True),
        disable=not (progress and chunks),
    )
    with bar:
        yield from bar.track(chunks, description=f"generating {recipe.name}")


def _file(place: pathlib.Path, index: int) -> pathlib.Path:
    return place / f"part-{index:05d}.npz"


def _checksum_file(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".sha256")


def _read(path: pathlib.Path, tell: Tell) -> Arrays | None:
    """Return a chunk, or None if it is not there or not as it was written."""
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        expected = _checksum_file(path).read_text("ascii").split()[0]
    except (FileNotFoundError, IndexError, UnicodeDecodeError):
        tell(f"{path} has no checksum; it is made again.")
        return None
    if hashlib.sha256(content).hexdigest() != expected:
        tell(f"{path} is damaged: its SHA-256 is not {expected}; it is made again.")
        return None
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return dict(stored)


def _write(path: pathlib.Path, arrays: Arrays) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    content = buffer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    _replace(path, content)
    _replace(_checksum_file(path), f"{digest}  {path.name}\n".encode())


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Write a file whole or not at all, whoever else writes it at the same time."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def _prepare(place: pathlib.Path, text: str) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
        _replace(place / "recipe.json", text.encode())
    except OSError as error:
        raise OSError(
            f"load_generated: {place} cannot be written ({error}); set STABJAX_CACHE "
            "to a folder that can."
        ) from error


def _check(recipe: Recipe, arrays: Arrays) -> None:
    for name, array in arrays.items():
        if len(array) != recipe.chunk:
            raise ValueError(
                f"load_generated: {recipe.name} must make {recipe.chunk} rows of "
                f"{name} at a time, got {len(array)}."
            )
