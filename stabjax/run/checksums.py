"""Content checksums over a folder: any changed, missing or cut file is found."""

import hashlib
import json
import os
import pathlib

from stabjax.run.folder import private, sync_folder

MANIFEST = "checksums.json"


def seal(folder: pathlib.Path) -> None:
    """Write the checksums of every file below ``folder`` and make it all durable."""
    files = {name: _digest(folder / name) for name in _files(folder)}
    with open(folder / MANIFEST, "x", encoding="utf-8", opener=private) as file:
        file.write(json.dumps(files))
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync_file(pathlib.Path(parent, name))
        sync_folder(pathlib.Path(parent))


def damage(folder: pathlib.Path) -> str | None:
    """Return what is wrong with a sealed folder, or None if every byte is as sealed.

    Files that were added later are ignored: nothing reads them.
    """
    try:
        files = json.loads((folder / MANIFEST).read_bytes())
        if not files:
            return f"{MANIFEST} is damaged"
        for name, expected in files.items():
            if _digest(folder / name) != expected:
                return f"{name} is damaged"
    except FileNotFoundError as error:
        return f"{os.path.basename(str(error.filename))} is missing"
    except (ValueError, AttributeError):  # not JSON, or not a mapping
        return f"{MANIFEST} is damaged"
    except OSError as error:
        return str(error)
    return None


def _files(folder: pathlib.Path) -> list[str]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _digest(path: pathlib.Path) -> str:
    with open(path, "rb", opener=private) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_file(path: pathlib.Path) -> None:
    with open(path, "rb", opener=private) as file:
        os.fsync(file.fileno())
