"""What a run's YAML may say, checked as a whole before anything is built."""

import copy
import importlib
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pydantic

from stabjax.config.bind import as_plain, bind, resolve, validate
from stabjax.config.errors import ConfigError, nearest, show
from stabjax.config.text import MAX_BYTES, dump, parse, put

_SECTIONS = ("model", "train", "optimizer", "guards", "compare")
_CLOSED = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
_INT32 = 2**31 - 1

Seed = Annotated[int, pydantic.Field(ge=0, le=2**32 - 1)]
Steps = Annotated[int, pydantic.Field(ge=0, le=_INT32)]
Count = Annotated[int, pydantic.Field(ge=1, le=_INT32)]


class EarlyStopping(pydantic.BaseModel):
    """``train.early_stopping``: end a run whose score no longer improves."""

    model_config = _CLOSED

    score: str = pydantic.Field(description="one of the model's evaluation scores")
    patience: Count = pydantic.Field(description="evaluations without improvement")
    mode: Literal["min", "max"] = pydantic.Field("min", description="what is better")
    min_delta: Annotated[float, pydantic.Field(ge=0.0)] = pydantic.Field(
        0.0, description="smallest difference that counts as an improvement"
    )


class TrainConfig(pydantic.BaseModel):
    """The ``train:`` section: how long, from which seed, how often to look and save."""

    model_config = _CLOSED

    steps: Count = pydantic.Field(1000, description="steps attempted, refused included")
    seed: Seed = pydantic.Field(0, description="parameters, data and dropout")
    window: Annotated[int, pydantic.Field(ge=1, le=100_000)] = pydantic.Field(
        50, description="steps between two fetches of telemetry"
    )
    checkpoint_every: Steps = pydantic.Field(500, description="0: at the end only")
    keep: Count = pydantic.Field(2, description="checkpoints retained")
    evaluate_every: Steps = pydantic.Field(0, description="0: at the end only")
    snapshot_every: Count | None = pydantic.Field(
        None, description="steps between good states kept for rollback; null: default"
    )
    snapshot_memory: Literal["device", "pinned_host"] = pydantic.Field(
        "device", description="where they lie; pinned_host: restored by the loop, late"
    )
    audit_every: Steps = pydantic.Field(
        500, description="look for damage in the whole state, at saves too; 0: never"
    )
    early_stopping: EarlyStopping | None = pydantic.Field(
        None, description="judged every evaluate_every steps; null: never"
    )

    @pydantic.model_validator(mode="after")
    def _evaluates_to_stop(self) -> "TrainConfig":
        if self.early_stopping is not None and not self.evaluate_every:
            raise ValueError(
                "train: evaluate_every must be at least 1 with early_stopping, got 0."
            )
        return self


class CompareConfig(pydantic.BaseModel):
    """The ``compare:`` section: seeds, named arms, and fixes to add one at a time."""

    model_config = _CLOSED

    seeds: tuple[Seed, ...] = (0,)
    arms: dict[str, tuple[str, ...]] = pydantic.Field(default_factory=dict)
    ablate: dict[str, tuple[str, ...]] = pydantic.Field(default_factory=dict)


@dataclass(frozen=True)
class RunConfig:
    """A checked configuration; every part of it can be built.

    Attributes:
        model_name: Key of `stabjax.models.MODELS`.
        model: That model's ``Config``.
        train: The ``train:`` section.
        optimizer: The ``optimizer:`` section as written, without defaults.
        guards: The ``guards:`` entries as written; None is the plain, unguarded step,
            () enforces the finite contract alone.
        compare: The ``compare:`` section, if any.
        source: Where it came from, for messages.
        document: The data it was made from, overrides included.
    """

    model_name: str
    model: Any
    train: TrainConfig
    optimizer: dict[str, Any]
    guards: tuple[dict[str, Any], ...] | None
    compare: CompareConfig | None = None
    source: str = field(default="config", compare=False)
    document: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


def load(path: str | os.PathLike, overrides: Sequence[str] = ()) -> RunConfig:
    """Read, override and check a configuration file.

    Args:
        path: A YAML file.
        overrides: ``key=value`` with a dotted key and a YAML value, applied in order:
            ``train.steps=10``, ``guards.0.max_norm=2``, ``guards=null``.

    Returns:
        The checked configuration. Nothing is created on disk.

    Raises:
        ConfigError: Whatever is wrong with the file, an override or a value.
    """
    return loads(_read(pathlib.Path(path)), overrides, source=str(path))


def loads(
    text: str, overrides: Sequence[str] = (), *, source: str = "config"
) -> RunConfig:
    """Check a configuration given as text; as `load`.

    Raises:
        ConfigError: Whatever is wrong with the text, an override or a value.

    Example:
        >>> try:
        ...     loads("model: {name: cmt}")
        ... except ConfigError as error:
        ...     print(error)
        config: model.name 'cmt' is unknown; did you mean 'ctm'?
    """
    document = parse(text, source)
    if not isinstance(document, dict):
        raise ConfigError(f"{source}: must be a mapping, got {show(document)}.")
    return _checked(_overridden(document, overrides, source), source)


def override(
    config: RunConfig, overrides: Sequence[str], *, source: str | None = None
) -> RunConfig:
    """Return ``config`` with more ``key=value`` overrides applied.

    Args:
        config: A checked configuration.
        overrides: As in `load`.
        source: Named in errors; that of ``config`` by default.

    Raises:
        ConfigError: Whatever is wrong with an override or the result.
    """
    source = source or config.source
    return _checked(_overridden(config.document, overrides, source), source)


def effective(config: RunConfig) -> str:
    """Return YAML text with every default written out; it loads to the same settings.

    Example:
        >>> config = loads("model: {name: ctm}")
        >>> loads(effective(config)).model == config.model
        True
    """
    return dump(effective_data(config))


def effective_data(config: RunConfig) -> dict[str, Any]:
    """Return what `effective` writes, as plain data."""
    from stabjax.config.optimizers import effective_optimizer

    guards = config.guards
    data: dict[str, Any] = {
        "model": {"name": config.model_name, **config.model.model_dump(mode="json")},
        "train": config.train.model_dump(mode="json"),
        "optimizer": effective_optimizer(config.optimizer, source=config.source),
        "guards": None if guards is None else [_with_defaults(g) for g in guards],
    }
    if config.compare is not None:
        data["compare"] = config.compare.model_dump(mode="json")
    return data


def build_guards(config: RunConfig) -> tuple[Any, ...] | None:
    """Build the guards of a configuration; None asks for the unguarded step.

    Raises:
        ConfigError: If an entry does not describe a guard.
    """
    return _bound_guards(config.guards, config.source)


def _bound_guards(entries: Any, source: str) -> tuple[Any, ...] | None:
    if not entries:
        return entries if entries is None else ()
    return bind_guards(entries, source)


def bind_guards(entries: Sequence[Any], source: str) -> tuple[Any, ...]:
    """Build the guards of a list of entries; a preset stands for several.

    Raises:
        ConfigError: If an entry does not describe a guard.
    """
    registry, guards = _guard_registry(), []
    for index, entry in enumerate(entries):
        built = bind(registry, entry, source=source, path=f"guards.{index}")
        guards.extend(built if isinstance(built, tuple) else [built])
    return tuple(guards)


def _guard_registry() -> Mapping[str, Any]:
    from stabjax.guards import GUARDS, PRESETS  # jax: only when there are guards

    return {**GUARDS, **PRESETS}


def _with_defaults(entry: dict[str, Any]) -> dict[str, Any]:
    kind, _, options = resolve(_guard_registry(), entry)
    plain = {key: as_plain(value) for key, value in options.items()}
    finite = {
        key: value
        for key, value in plain.items()
        if not isinstance(value, float) or math.isfinite(value)
    }
    return {"kind": kind, **finite}


def _read(path: pathlib.Path) -> str:
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: no such configuration file.")
        with path.open("rb") as file:
            raw = file.read(4 * MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{str(path)!r}: cannot be read: {error}") from None
    if len(raw) > 4 * MAX_BYTES:
        raise ConfigError(f"{path}: must be at most {MAX_BYTES} characters.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: must be UTF-8: {error}") from None


def _overridden(document: dict, overrides: Sequence[str], source: str) -> dict:
    document = copy.deepcopy(document)
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"override must be key=value, got {show(text)}.")
        parsed = parse(value, f"override {show(text)}")
        put(document, key.strip(), parsed, source)
    return document


def _checked(document: dict[str, Any], source: str) -> RunConfig:
    for name in document:
        if name not in _SECTIONS:
            raise ConfigError(
                f"{source}: {show(name)} is not a section{nearest(name, _SECTIONS)}"
            )
    train = validate(
        TrainConfig, _section(document, "train", source), source=source, path="train",
        owner="train",
    )  # fmt: skip
    compare = None
    if document.get("compare") is not None:
        compare = validate(
            CompareConfig, document["compare"], source=source, path="compare",
            owner="compare",
        )  # fmt: skip
    guards = document.get("guards", [])
    if guards is not None and not isinstance(guards, list):
        raise ConfigError(
            f"{source}: guards must be a list or null, got {show(guards)}."
        )
    name, model = _model(_section(document, "model", source), source)
    optimizer = document.get("optimizer", {"kind": "adamw", "learning_rate": 1e-3})
    _build_once(optimizer, guards, source)
    return RunConfig(
        model_name=name,
        model=model,
        train=train,
        optimizer=optimizer,
        guards=None if guards is None else tuple(guards),
        compare=compare,
        source=source,
        document=document,
    )


def _section(document: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    section = document.get(name)
    if section is None:
        section = {}
    if not isinstance(section, dict):
        raise ConfigError(f"{source}: {name} must be a mapping, got {show(section)}.")
    return section


def _model(section: dict[str, Any], source: str) -> tuple[str, Any]:
    # Models live a floor above: they are reached by name, as any plugin would be.
    models = importlib.import_module("stabjax.models").MODELS
    name = section.get("name")
    if not isinstance(name, str) or name not in models:
        raise ConfigError(
            f"{source}: model.name {show(name)} is unknown{nearest(name, models)}"
        )
    try:
        module = importlib.import_module(models[name])
    except ModuleNotFoundError as error:
        raise ConfigError(f"{source}: model {name} needs a package: {error}") from error
    options = {key: value for key, value in section.items() if key != "name"}
    config = validate(module.Config, options, source=source, path="model", owner=name)
    return name, config


def _build_once(optimizer: Any, guards: Any, source: str) -> None:
    # Building is the check: a factory refuses what it cannot do, here and not later.
    from stabjax.config.optimizers import build_optimizer

    build_optimizer(optimizer, source=source)
    _bound_guards(guards, source)
