"""A factory's signature is the schema of its options."""

import collections.abc
import functools
import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import pydantic

from stabjax.config.errors import ConfigError, join, nearest, show

_PLAIN = (int, float, bool, str, type(None))
_CONTAINERS = (list, tuple, dict, collections.abc.Sequence, collections.abc.Mapping)


def bind(
    registry: Mapping[str, Callable[..., Any]],
    entry: Any,
    *,
    source: str = "config",
    path: str = "",
    **extra: Any,
) -> Any:
    """Build the object that ``{"kind": name, **options}`` describes.

    Args:
        registry: Name to factory. The annotations and defaults of a factory are the
            schema of its options.
        entry: The mapping as written.
        source: Named at the start of errors, usually the file.
        path: Dotted path of ``entry``, named in errors.
        **extra: Arguments that are not options, passed to the factory as they are.

    Returns:
        What the factory returns.

    Raises:
        ConfigError: For an unknown kind or option, a wrong type, or when the factory
            itself refuses a value.

    Example:
        >>> def clip(*, max_norm: float = 1.0): return max_norm
        >>> bind({"clip": clip}, {"kind": "clip", "max_norm": 2})
        2.0
        >>> try:
        ...     bind({"clip": clip}, {"kind": "clip", "maxnorm": 2})
        ... except ConfigError as error:
        ...     print(error)
        config: maxnorm is not an option of clip; did you mean 'max_norm'?
    """
    kind, factory, options = resolve(
        registry, entry, source=source, path=path, given=tuple(extra)
    )
    try:
        return factory(**options, **extra)
    except ConfigError:
        raise
    except Exception as error:  # a factory's refusal, whatever its type
        raise ConfigError(f"{source}: {path or kind}: {error}") from error


def resolve(
    registry: Mapping[str, Callable[..., Any]],
    entry: Any,
    *,
    source: str = "config",
    path: str = "",
    given: tuple[str, ...] = (),
) -> tuple[str, Callable[..., Any], dict[str, Any]]:
    """Return ``(kind, factory, checked options with defaults)`` without building.

    Raises:
        ConfigError: As `bind`.
    """
    if not isinstance(entry, dict) or not isinstance(entry.get("kind"), str):
        raise ConfigError(
            f"{source}: {path or 'entry'} must be a mapping with a kind, got "
            f"{show(entry)}{nearest('', registry)}"
        )
    kind = entry["kind"]
    if kind not in registry:
        raise ConfigError(
            f"{source}: {join(path, 'kind')} {show(kind)} is unknown"
            f"{nearest(kind, registry)}"
        )
    schema = signature_schema(registry[kind], given)
    options = {key: value for key, value in entry.items() if key != "kind"}
    checked = validate(schema, options, source=source, path=path, owner=kind)
    return (
        kind,
        registry[kind],
        {name: getattr(checked, name) for name in schema.model_fields},
    )


def validate(
    schema: type[pydantic.BaseModel],
    data: Any,
    *,
    source: str,
    path: str,
    owner: str,
) -> Any:
    """Return ``data`` checked against a pydantic model, strictly.

    The check goes through JSON, where pydantic's strict mode takes a list for a tuple
    and an int for a float, but never a bool for an int or text for a number.

    Raises:
        ConfigError: For the first fault, naming its path, range and value.
    """
    try:
        return schema.model_validate_json(
            json.dumps(data, allow_nan=False), strict=True
        )
    except pydantic.ValidationError as error:
        fault = error.errors(include_url=False)[0]
        raise ConfigError(f"{source}: {_say(fault, schema, path, owner)}") from None
    except Exception as error:  # a model's own validator may raise anything
        raise ConfigError(f"{source}: {path or owner}: {error}") from error


def _say(fault: Any, schema: type[pydantic.BaseModel], path: str, owner: str) -> str:
    where = functools.reduce(join, fault["loc"], path)
    if fault["type"] == "extra_forbidden":
        fields = _fields_at(schema, fault["loc"][:-1])
        return f"{where} is not an option of {owner}{nearest(fault['loc'][-1], fields)}"
    if fault["type"] == "missing":
        return f"{where} is missing."
    message = fault["msg"].removeprefix("Value error, ")
    message = message.removeprefix("Assertion failed, ").rstrip(".")
    if message.startswith("Input should be "):
        message = "must be " + message.removeprefix("Input should be ")
        return f"{where} {message}, got {show(fault['input'])}."
    return f"{where or owner}: {message}, got {show(fault['input'])}."


def _fields_at(schema: Any, loc: tuple) -> list[str]:
    # Follows nested models as far as it can, so the hint names the right siblings.
    for part in loc:
        field = getattr(schema, "model_fields", {}).get(part)
        schema = getattr(field, "annotation", None)
    return list(getattr(schema, "model_fields", {}))


@functools.lru_cache(maxsize=256)
def signature_schema(
    factory: Callable[..., Any], given: tuple[str, ...] = ()
) -> type[pydantic.BaseModel]:
    """Return a pydantic model with one field per option of ``factory``.

    A parameter whose type cannot be written in YAML (a function, a dtype) is left at
    its default and is no option.

    Args:
        factory: Any callable with an annotated signature.
        given: Parameters that are supplied by the caller and so are no options.
    """
    fields: dict[str, Any] = {}
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        kind = _option_type(parameter)
        if parameter.name in given or kind is None:
            continue
        required = parameter.default is parameter.empty
        fields[parameter.name] = (kind, ... if required else parameter.default)
    name = getattr(factory, "__name__", "options")
    config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    return pydantic.create_model(name, __config__=config, **fields)


def _option_type(parameter: inspect.Parameter) -> Any:
    annotation = parameter.annotation
    if annotation is parameter.empty:
        default = parameter.default
        return type(default) if isinstance(default, _PLAIN[:4]) else None
    if _is_plain(annotation):
        return annotation
    # Libraries annotate numbers as "float, array or schedule": a number from YAML.
    members = _members(annotation)
    if float in members:
        optional = parameter.default is None or type(None) in members
        return float | None if optional else float
    return None


def _members(annotation: Any) -> tuple[Any, ...]:
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        return tuple(m for a in typing.get_args(annotation) for m in _members(a))
    return (annotation,)


def _is_plain(annotation: Any) -> bool:
    if annotation in _PLAIN or annotation is Ellipsis:
        return True
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return True
    if origin is typing.Annotated:
        return _is_plain(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType, *_CONTAINERS):
        return all(_is_plain(argument) for argument in typing.get_args(annotation))
    return False


def option_defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """Return the options of a factory with their defaults (`Parameter.empty`: none)."""
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.name in signature_schema(factory).model_fields
    }


def as_plain(value: Any) -> Any:
    """Return tuples as lists, all the way down."""
    if isinstance(value, list | tuple):
        return [as_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: as_plain(item) for key, item in value.items()}
    return value
