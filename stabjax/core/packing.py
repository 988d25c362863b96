"""Many scalars as two vectors, so that a step carries two buffers instead of forty.

A GPU launches one kernel per buffer it writes. The states of all guards and the
counters of the step therefore travel as one float32 and one int32 vector, and are
named trees only inside the step and in the hands of whoever looks at them.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


class Packed(NamedTuple):
    """A tree of small arrays as two vectors.

    Attributes:
        floats: All floating-point leaves, float32, padded with zeros.
        ints: All integer and boolean leaves, int32, padded to the same length:
            XLA writes two vectors of one shape in one kernel.
    """

    floats: Float[Array, " width"]
    ints: Int[Array, " width"]


def pack(tree: Any) -> Packed:
    """Flatten a tree of float32, int32 and bool arrays into two vectors."""
    leaves = jax.tree.leaves(tree)
    floats = [x.reshape(-1) for x in leaves if _is_float(x)]
    ints = [x.astype(jnp.int32).reshape(-1) for x in leaves if not _is_float(x)]
    width = max(sum(x.size for x in part) for part in (floats, ints))
    return Packed(_join(floats, jnp.float32, width), _join(ints, jnp.int32, width))


def unpack(packed: Packed, like: Any) -> Any:
    """Rebuild the tree of the shapes and dtypes of ``like``.

    Args:
        packed: From `pack`, on device or on the host.
        like: A tree of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
        The tree; its leaves are views of the vectors.

    Example:
        >>> tree = {"a": jnp.float32(0.5), "b": jnp.int32(3)}
        >>> bool(unpack(pack(tree), tree)["b"] == 3)
        True
    """
    shapes, structure = jax.tree.flatten(like)
    leaves, taken = [], {"floats": 0, "ints": 0}
    for shape in shapes:
        kind = "floats" if _is_float(shape) else "ints"
        size = math.prod(shape.shape)
        flat = getattr(packed, kind)[taken[kind] : taken[kind] + size]
        taken[kind] += size
        leaves.append(flat.reshape(shape.shape).astype(shape.dtype))
    return jax.tree.unflatten(structure, leaves)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _join(parts: list[Array], dtype: Any, width: int) -> Array:
    padding = jnp.zeros((width - sum(part.size for part in parts),), dtype)
    return jnp.concatenate([*parts, padding])
