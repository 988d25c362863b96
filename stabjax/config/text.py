"""YAML text to plain data and back: no code, no bombs, no surprises.

Numbers follow the YAML 1.2 core rules without their leftovers: ``1e-3`` is a number;
``010``, ``1_000``, ``1:30``, ``yes`` and ``2001-01-01`` stay text, and so become a
type error where a number or a boolean is wanted instead of a silent other value.
Tags, merge keys, duplicate keys and keys that are not text are refused.
"""

import math
import re
from typing import Any, ClassVar

import yaml

from stabjax.config.errors import ConfigError, join, nearest, show

MAX_BYTES = 128 * 1024  # shipped configurations are about 2 KiB
MAX_NODES = 10_000  # after aliases are expanded: a bomb counts at its full size
MAX_DEPTH = 40
MAX_INTEGER = 2**63

_CORE = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
        r"|\.[0-9]+(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    """The safe loader with the core rules above."""

    yaml_implicit_resolvers: ClassVar[dict] = {}  # not those of YAML 1.1


class _Dumper(yaml.SafeDumper):
    """Writes what `parse` reads back: it quotes whatever either YAML would convert."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in _CORE:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), _first
        )


def parse(text: str, source: str = "<text>") -> Any:
    """Return the plain data (dict, list, str, int, float, bool, None) of a YAML text.

    Args:
        text: One YAML document of at most `MAX_BYTES` characters.
        source: Named at the start of every error, usually the file.

    Raises:
        ConfigError: If the text is not YAML, too large, or uses what is refused above.

    Example:
        >>> parse("{rate: 1e-3, mode: 010, flag: yes}")
        {'rate': 0.001, 'mode': '010', 'flag': 'yes'}
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(
            f"{source}: must be at most {MAX_BYTES} characters, got {len(text)}."
        )
    try:
        _check_events(text, source)
        node = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: not readable as YAML: {_where(error)}") from None
    except (ValueError, OverflowError) as error:  # a stray escape such as "\UFFFFFFFF"
        raise ConfigError(f"{source}: not readable as YAML: {error}") from None
    if node is None:
        return None
    _expanded_size(node, source, {}, set())
    return _plain(node, source, "")


def dump(data: Any) -> str:
    """Return ``data`` as YAML text that `parse` turns back into the same data."""
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=88
    )


def _where(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"line {mark.line + 1}: {problem}" if mark else str(problem)


def _check_events(text: str, source: str) -> None:
    # The event stream is flat, so depth is bounded before anything recurses.
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        tag = getattr(event, "tag", None)
        if tag is not None:
            line = event.start_mark.line + 1
            raise ConfigError(f"{source}: line {line}: tags are refused, got {tag!r}.")
        if depth > MAX_DEPTH or count > 4 * MAX_NODES:
            raise ConfigError(
                f"{source}: must have at most {MAX_DEPTH} levels and {MAX_NODES} "
                "entries."
            )


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _expanded_size(node: yaml.Node, source: str, sizes: dict, open_: set) -> int:
    if id(node) in sizes:
        return sizes[id(node)]
    if id(node) in open_ or len(open_) > MAX_DEPTH:
        raise ConfigError(f"{source}: an alias must not refer to itself.")
    open_.add(id(node))
    size = 1
    for child in _children(node):
        size += _expanded_size(child, source, sizes, open_)
        if size > MAX_NODES:
            raise ConfigError(
                f"{source}: must have at most {MAX_NODES} entries after aliases are "
                "expanded."
            )
    open_.discard(id(node))
    sizes[id(node)] = size
    return size


def _plain(node: yaml.Node, source: str, path: str) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [
            _plain(child, source, join(path, index))
            for index, child in enumerate(node.value)
        ]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, source, path)
    return _scalar(node, source, path)


def _mapping(node: yaml.MappingNode, source: str, path: str) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = _plain(key_node, source, path)
        line = key_node.start_mark.line + 1
        if not isinstance(key, str):
            raise ConfigError(
                f"{source}: line {line}: {path or 'the top level'}: a key must be "
                f"text, got {show(key)}."
            )
        if key in result:
            raise ConfigError(f"{source}: line {line}: duplicate key {join(path, key)}")
        result[key] = _plain(value_node, source, join(path, key))
    return result


def _scalar(node: yaml.Node, source: str, path: str) -> Any:
    kind = node.tag.rpartition(":")[2]
    text = node.value
    where = f"{source}: {path or 'the value'}"
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        # The length first: converting a million digits is itself an attack.
        if len(text) > 20 or abs(int(text)) >= MAX_INTEGER:
            raise ConfigError(f"{where} must be below 2**63, got {show(text)}.")
        return int(text)
    if kind == "float":
        number = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if not math.isfinite(number):
            raise ConfigError(f"{where} must be finite, got {show(text)}.")
        return number
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ConfigError(f"{where} must be valid text, got {show(text)}.")
    return text


def put(document: Any, path: str, value: Any, source: str) -> None:
    """Set ``document[path] = value`` in place, for one ``key=value`` override.

    Args:
        document: Nested dicts and lists.
        path: Dotted keys; a number indexes a list (``guards.0.max_norm``).
        value: Plain data.
        source: Named in errors.

    Raises:
        ConfigError: If the path leads through something that is not a section.
    """
    keys = path.split(".")
    if not all(keys) or len(keys) > MAX_DEPTH:
        raise ConfigError(f"{source}: {show(path)} is not a dotted path of keys.")
    here = document
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        where = ".".join(keys[: depth + 1])
        if isinstance(here, list):
            index = _index(here, key, where, source)
            if last:
                here[index] = value
                return
            here = here[index]
        elif isinstance(here, dict):
            if last:
                here[key] = value
                return
            if here.get(key) is None:
                here[key] = {}
            here = here[key]
        else:
            raise ConfigError(
                f"{source}: {where} cannot be set: {'.'.join(keys[:depth])} is "
                f"{show(here)}, not a section."
            )


def _index(items: list, key: str, where: str, source: str) -> int:
    if re.fullmatch(r"[0-9]{1,6}", key) and int(key) < len(items):
        return int(key)
    raise ConfigError(
        f"{source}: {where} must be an index below {len(items)}, got {show(key)}"
        f"{nearest(key, map(str, range(min(len(items), 8))))}"
    )
