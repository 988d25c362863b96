"""What there is to choose from: models, shipped configurations, registered names."""

import contextlib
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import stabjax
from stabjax.config.errors import ConfigError, nearest, show
from stabjax.models import MODELS

KINDS = ("models", "configs", "optimizers", "schedules", "guards", "losses")


def config_folders() -> list[pathlib.Path]:
    """Return the folders searched for a configuration by name, nearest first."""
    package = pathlib.Path(stabjax.__file__).parent
    shipped = [package / "configs", package.parent / "configs"]
    return [folder for folder in (pathlib.Path("configs"), *shipped) if folder.is_dir()]


def configs() -> dict[str, pathlib.Path]:
    """Return the configurations that can be named, by name."""
    found: dict[str, pathlib.Path] = {}
    for folder in config_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_config(name: str) -> pathlib.Path:
    """Return the file that a person means by ``name``.

    Args:
        name: A path; or the name of a file in ``configs/``, with or without
            ``.yaml``; or a model that has one called ``<model>`` or ``<model>_cpu``.

    Raises:
        ConfigError: If there is none; names the nearest.
    """
    path = pathlib.Path(name)
    if _is(path.is_file):
        return path
    if _is(path.exists):
        raise ConfigError(f"configuration {show(name)} is not a file.")
    found = configs()
    stem = name.removesuffix(".yaml").removeprefix("configs/")
    for candidate in (stem, f"{stem}_cpu"):
        if candidate in found:
            return found[candidate]
    raise ConfigError(
        f"configuration {show(name)} not found: not a file, and not in "
        f"configs/{nearest(stem, found)}"
    )


def _is(test: Callable[[], bool]) -> bool:
    with contextlib.suppress(OSError, ValueError):  # a name too long, or with a NUL
        return test()
    return False


def describe(what: str | None = None) -> str:
    """Return the names of one kind of thing with their options, or of all kinds.

    Args:
        what: One of `KINDS`; None names everything, without options.
    """
    if what is None:
        return "\n".join(f"{kind:<12}{', '.join(_names(kind))}" for kind in KINDS)
    if what == "models":
        return "\n".join(f"{name:<12}{MODELS[name]}" for name in sorted(MODELS))
    if what == "configs":
        return "\n".join(f"{name:<24}{path}" for name, path in configs().items())
    registry = _registry(what)
    return "\n".join(_line(name, registry[name]) for name in sorted(registry))


def _names(kind: str) -> list[str]:
    if kind == "models":
        return sorted(MODELS)
    return list(configs()) if kind == "configs" else sorted(_registry(kind))


def _registry(kind: str) -> Mapping[str, Callable[..., Any]]:
    # These import jax: their entries are the functions themselves.
    if kind == "guards":
        from stabjax.guards import GUARDS, PRESETS

        return {**GUARDS, **PRESETS}
    if kind == "losses":
        from stabjax.losses import LOSSES

        return LOSSES
    from stabjax.config import optimizers

    return {"optimizers": optimizers.OPTIMIZERS, "schedules": optimizers.SCHEDULES}[
        kind
    ]


def _line(name: str, factory: Callable[..., Any]) -> str:
    from stabjax.config.bind import option_defaults

    function = getattr(factory, "function", factory)  # of a `LossEntry`
    options = option_defaults(function)
    if function is not factory:  # a loss takes arrays, which are no options
        options = {
            parameter.name: parameter.default
            for parameter in inspect.signature(function).parameters.values()
        }
    shown = ", ".join(
        key if default is inspect.Parameter.empty else f"{key}={default!r}"
        for key, default in options.items()
    )
    summary = (inspect.getdoc(function) or "").partition("\n")[0]
    return f"{name}({shown})\n    {summary}"
