"""Trees of shapes from a line of text or a YAML file, and where their leaves lie."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax

from stabjax.config.errors import ConfigError, nearest, show
from stabjax.config.text import parse

DTYPES = ("float32", "bfloat16", "float16")
# Smaller leaves are kept whole on every device, as a trainer would.
_SPREAD_FROM = 1024
_LARGEST = 2**40


def read_shapes(text: str) -> dict[str, Any]:
    """Return the tree that a text describes.

    Args:
        text: ``"layer0/w=1024x1024,layer0/b=1024:bfloat16,scale="``, where a name
            with ``/`` is a path and nothing after ``=`` is a scalar; or a YAML file
            of nested names, each with such a shape.

    Returns:
        Nested dictionaries of `jax.ShapeDtypeStruct`.

    Raises:
        ConfigError: If the text or the file does not describe shapes.

    Example:
        >>> read_shapes("core/w=8x4,b=4")["core"]["w"].shape
        (8, 4)
    """
    if text.endswith((".yaml", ".yml")):
        return _tree(parse(_file(text), text), text)
    tree: dict[str, Any] = {}
    for item in text.split(","):
        name, equals, shape = item.strip().partition("=")
        if not equals or not name:
            raise ConfigError(f"--shapes: must be name=shape, got {show(item)}.")
        *path, last = name.split("/")
        here = tree
        for part in path:
            here = here.setdefault(part, {})
            if not isinstance(here, dict):
                raise ConfigError(f"--shapes: {part!r} is a leaf and a branch.")
        if last in here:
            raise ConfigError(f"--shapes: {name!r} is given twice.")
        here[last] = _leaf(shape, f"--shapes: {name}")
    return tree


def spread_over(
    mesh: jax.sharding.Mesh,
) -> Callable[[jax.ShapeDtypeStruct], jax.sharding.Sharding]:
    """Return a placement that shards large leaves along their first axis.

    Args:
        mesh: A mesh of one axis.

    Returns:
        Leaf to sharding; what is small or does not divide lies on every device.
    """
    (axis,), (devices,) = mesh.axis_names, mesh.devices.shape

    def place(leaf: jax.ShapeDtypeStruct) -> jax.sharding.Sharding:
        spec = jax.sharding.PartitionSpec()
        large = leaf.size >= _SPREAD_FROM and leaf.shape[0] % devices == 0
        if devices > 1 and large:
            spec = jax.sharding.PartitionSpec(axis)
        return jax.sharding.NamedSharding(mesh, spec)

    return place


def _file(name: str) -> str:
    try:
        return pathlib.Path(name).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{show(name)}: cannot be read: {error}") from None


def _tree(data: Any, where: str) -> dict[str, Any]:
    if not isinstance(data, Mapping) or not data:
        raise ConfigError(f"{where}: must be names with shapes, got {show(data)}.")
    return {
        name: _tree(value, f"{where}: {name}")
        if isinstance(value, Mapping)
        else _leaf("" if value is None else str(value), f"{where}: {name}")
        for name, value in data.items()
    }


def _leaf(text: str, where: str) -> jax.ShapeDtypeStruct:
    shape, _, dtype = text.replace(" ", "").partition(":")
    dtype = dtype or "float32"
    if dtype not in DTYPES:
        raise ConfigError(
            f"{where}: dtype {show(dtype)} is unknown{nearest(dtype, DTYPES)}"
        )
    sizes = shape.split("x") if shape else []
    if not all(re.fullmatch(r"[0-9]{1,12}", size) for size in sizes):
        raise ConfigError(f"{where}: must be a shape as 1024x512, got {show(text)}.")
    leaf = jax.ShapeDtypeStruct(tuple(map(int, sizes)), dtype)
    if leaf.size > _LARGEST:
        raise ConfigError(
            f"{where}: must have at most 2**40 elements, got {leaf.size}."
        )
    return leaf
