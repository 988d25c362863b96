"""Many scalars as two vectors, so that a step carries two buffers instead of forty.

A GPU launches one kernel per buffer it writes. The states of all guards and the
counters of the step therefore travel as one float32 and one int32 vector, and are
named trees only inside the step and in the hands of whoever looks at them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def pack(tree: Any, *, by_place: bool = False) -> Packed:
    """Flatten a tree of float32, int32 and bool arrays into two vectors.

    Args:
        tree: The arrays.
        by_place: See `joined`.
    """
    leaves = jax.tree.leaves(tree)
    floats = [x for x in leaves if _is_float(x)]
    ints = [x for x in leaves if not _is_float(x)]
    width = max(sum(x.size for x in part) for part in (floats, ints))
    return Packed(
        joined(floats, jnp.float32, width, by_place=by_place),
        joined(ints, jnp.int32, width, by_place=by_place),
    )


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


def joined(
    parts: Sequence[Array], dtype: Any, width: int, *, by_place: bool = False
) -> Array:
    """Return small arrays side by side as one vector, padded with zeros.

    Args:
        parts: Scalars and vectors.
        dtype: That of the result.
        width: Its length, at least that of all parts.
        by_place: Let each entry select its own part, and concatenate nothing. That is
            one elementwise kernel, into which XLA on CPU draws what computes the parts;
            of a concatenation it makes a kernel per part. XLA for GPU does not.
    """
    if by_place:
        return _selected(parts, dtype, width)
    flat = [part.astype(dtype).reshape(-1) for part in parts]
    padding = jnp.zeros((width - sum(part.size for part in flat),), dtype)
    return jnp.concatenate([*flat, padding])


def _selected(parts: Sequence[Array], dtype: Any, width: int) -> Array:
    place, positions = jax.lax.iota(jnp.int32, width), np.arange(width)
    result, start = jax.lax.full((width,), 0, dtype), 0
    for part in parts:
        end = start + part.size
        if part.size == 1:
            here = place == start
            spread = jax.lax.broadcast(part.reshape(()), (width,))
        else:
            # A constant: computed, it would be one more kernel.
            here = jnp.asarray((positions >= start) & (positions < end))
            spread = jnp.pad(part.reshape(-1), (start, width - end))
        result = jax.lax.select(here, spread.astype(dtype), result)
        start = end
    return result
