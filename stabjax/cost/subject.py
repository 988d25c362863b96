"""What `stabjax cost` measures: a configuration, shapes, or a function of the user."""

import importlib
import re
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from stabjax.config.errors import ConfigError, nearest, show

_SECTIONS = ("optimizer", "guards")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Subject(NamedTuple):
    """What is compiled.

    Attributes:
        params: Parameters or their shapes.
        optimizer: The inner optimizer.
        guards: The guards, or None for the unguarded step.
        source: Named in errors.
        options: Further arguments of `stabjax.cost.measure`.
    """

    params: Any
    optimizer: Any
    guards: Any
    source: str
    options: dict[str, Any]


def find_subject(
    what: str | None, overrides: Sequence[str], shapes: str | None
) -> Subject:
    """Return what the arguments of the command name.

    Args:
        what: A configuration as for `stabjax train`; or ``module:function``, which
            takes nothing and returns ``(params, optimizer, guards)``; or None.
        overrides: ``key=value`` for the configuration.
        shapes: Parameters to take instead of the model's, see `read_shapes`.

    Raises:
        ConfigError: If there is no such thing, or nothing to measure.
    """
    if what is None and shapes is None:
        raise ConfigError("cost: needs a configuration, a module:function or --shapes.")
    if what is not None and _FUNCTION.fullmatch(what):
        if overrides or shapes is not None:
            raise ConfigError(f"cost: {what} takes neither overrides nor --shapes.")
        return _of_function(what)
    subject = _of_config(what, overrides, model=shapes is None)
    if shapes is None:
        return subject
    from stabjax.cost.shapes import read_shapes

    return subject._replace(params=read_shapes(shapes))


def _of_function(what: str) -> Subject:
    module, _, name = what.partition(":")
    if "" not in sys.path:
        sys.path.insert(0, "")  # a module of the user lies where he calls from
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cost: {what}: {error}") from error
    found = function()
    if not isinstance(found, tuple) or len(found) != 3:
        raise ConfigError(
            f"cost: {what} must return (params, optimizer, guards), got {show(found)}."
        )
    return Subject(*found, source=what, options={})


def _of_config(what: str | None, overrides: Sequence[str], *, model: bool) -> Subject:
    from stabjax.config import build_guards, build_optimizer, load
    from stabjax.run.catalog import find_config

    if what is None:
        return _of_sections(overrides)
    config = load(find_config(what), overrides)
    subject = Subject(
        params=None,
        optimizer=build_optimizer(config.optimizer, source=config.source),
        guards=build_guards(config),
        source=config.source,
        options={"snapshot_every": config.train.snapshot_every},
    )
    return _with_model(subject, config) if model else subject


def _with_model(subject: Subject, config: Any) -> Subject:
    import jax

    from stabjax.health.schema import FLOATS
    from stabjax.run import build_task

    state = build_task(config).init(jax.random.key(0))
    schema = state.telemetry.schema
    further = schema.floats[len(FLOATS) + len(schema.components) :]
    owned = tuple(
        f"{guard.name}{end}" for guard in subject.guards or () for end in "/#"
    )
    names = {
        "components": schema.components,
        "metrics": [name for name in further if not name.startswith(owned)],
    }
    return subject._replace(params=state.params, options=subject.options | names)


def _of_sections(overrides: Sequence[str]) -> Subject:
    from stabjax.config import build_optimizer
    from stabjax.config.schema import bind_guards
    from stabjax.config.text import parse, put

    document: dict[str, Any] = {}
    for text in overrides:
        key, _, value = text.partition("=")
        section = key.split(".")[0]
        if section not in _SECTIONS:
            raise ConfigError(
                f"cost: {show(section)} is not a section here"
                f"{nearest(section, _SECTIONS)}"
            )
        put(document, key, parse(value, f"override {show(text)}"), "cost")
    entries = document.get("guards", [])
    if entries is not None and not isinstance(entries, list):
        raise ConfigError(f"cost: guards must be a list or null, got {show(entries)}.")
    guards = None if entries is None else bind_guards(entries, "cost")
    default = {"kind": "adamw", "learning_rate": 1e-3}
    optimizer = build_optimizer(document.get("optimizer", default), source="cost")
    return Subject(None, optimizer, guards, "cost", {})
