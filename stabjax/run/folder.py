"""The run folder: its name, its files, and what makes a second start a resume."""

import os
import pathlib
import re
from typing import Any

from stabjax.config.errors import ConfigError, show
from stabjax.config.schema import RunConfig, effective_data
from stabjax.config.text import dump, parse

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

# What may change between two starts of one run: how long it goes on and how often it
# looks or saves. Everything else would make the second half another experiment.
CHANGEABLE = (
    "train.steps",
    "train.checkpoint_every",
    "train.evaluate_every",
    "train.keep",
    "compare",
)
_BEFORE_CONFIG = {"lock", "config.yaml.part"}  # all a start killed early leaves


def check_name(name: str, what: str = "run") -> str:
    """Return ``name`` if a run, or a file in its folder, may be called that.

    Raises:
        ConfigError: If it could leave its folder, hide, or upset a shell.

    Example:
        >>> check_name("ctm-seed.0")
        'ctm-seed.0'
    """
    if not NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{what} name must be 1 to 128 of letters, digits, '.', '_' and '-', start "
            f"with a letter or digit and not contain '..', got {show(name)}."
        )
    return name


def check_folder(folder: str | os.PathLike) -> pathlib.Path:
    """Return the absolute run folder if it may be written; creates nothing.

    Raises:
        ConfigError: If its name is bad, it is no run folder, or a symbolic link in it
            could lead writes elsewhere.
    """
    path = pathlib.Path(os.path.abspath(folder))
    check_name(path.name)
    if path.is_symlink():
        raise ConfigError(f"run folder {path} must not be a symbolic link.")
    if not path.exists():
        return path
    if not path.is_dir():
        raise ConfigError(f"run folder {path} must be a folder.")
    entries = {entry.name for entry in path.iterdir()}
    if "config.yaml" not in entries and not entries <= _BEFORE_CONFIG:
        raise ConfigError(
            f"run folder {path} exists and is not a run; choose another name."
        )
    for parent, folders, files in os.walk(path):
        for name in (*folders, *files):
            if os.path.islink(os.path.join(parent, name)):
                raise ConfigError(
                    f"run folder {path} contains a symbolic link: "
                    f"{os.path.join(parent, name)}"
                )
    return path


def make_folder(path: pathlib.Path) -> None:
    """Create a folder and its parents, writable by the owner alone."""
    path.mkdir(mode=0o755, parents=True, exist_ok=True)


def check_config(folder: pathlib.Path, config: RunConfig) -> None:
    """Check that a configuration goes on with the run in a folder, if it has begun.

    Raises:
        ConfigError: If more has changed than `CHANGEABLE` allows.
    """
    path = folder / "config.yaml"
    if not path.exists() or not _begun(folder):
        return
    before = parse(path.read_text("utf-8"), str(path))
    changes = _differences(before, parse(dump(effective_data(config))))
    if changes:
        raise ConfigError(
            f"{folder} holds a run with another configuration: "
            f"{'; '.join(changes[:5])}. Only {', '.join(CHANGEABLE)} may change on "
            "resume; choose another name for a new run."
        )


def write_config(folder: pathlib.Path, config: RunConfig) -> None:
    """Write ``config.yaml``, every default included."""
    write_atomically(folder / "config.yaml", dump(effective_data(config)))


def _begun(folder: pathlib.Path) -> bool:
    health, checkpoints = folder / "health.jsonl", folder / "checkpoints"
    logged = health.exists() and health.stat().st_size > 0
    return logged or (checkpoints.exists() and any(checkpoints.iterdir()))


def _differences(before: Any, after: Any) -> list[str]:
    old, new = _flat(before), _flat(after)
    absent = "nothing"
    return [
        f"{key}: {show(old.get(key, absent))} -> {show(new.get(key, absent))}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key, absent) != new.get(key, absent)
        and not any(key == name or key.startswith(name + ".") for name in CHANGEABLE)
    ]


def _flat(data: Any, path: str = "") -> dict[str, Any]:
    if isinstance(data, dict) and data:
        items = data.items()
    elif isinstance(data, list) and data:
        items = enumerate(data)
    else:
        return {path: data}
    return {
        key: value
        for name, child in items
        for key, value in _flat(child, f"{path}.{name}" if path else str(name)).items()
    }


def write_atomically(path: pathlib.Path, content: str | bytes) -> None:
    """Replace a file so that a reader or a crash sees the old or the new content."""
    part = path.with_name(path.name + ".part")
    if isinstance(content, str):
        content = content.encode("utf-8")
    try:
        with open(part, "wb", opener=private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:  # a full disk: leave no half file behind
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def private(path: str, flags: int) -> int:
    """Open a file that follows no link and that others cannot write."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def sync_folder(path: pathlib.Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
