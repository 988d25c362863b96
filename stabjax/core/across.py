"""One number per leaf, summed over the shards that a mapped axis holds."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from stabjax.core.sums import Sums

AxisName = str | tuple[str, ...] | None


def over_shards(
    per_leaf: Float[Array, " leaves"], leaves: Sequence[Array], axis_name: AxisName
) -> Float[Array, " leaves"]:
    """Return the sums of a number per leaf over a mapped axis.

    Inside `jax.shard_map` each device sees its own shard. A leaf that is replicated
    over the axis is not a shard, and counts once; where `jax.shard_map` does not track
    what varies (``check_vma=False``), every leaf counts as sharded.

    Args:
        per_leaf: One number per leaf, of this shard.
        leaves: The leaves, as this shard sees them.
        axis_name: The mapped axis or axes, or None.

    Returns:
        The numbers of the whole leaves, the same on every device.
    """
    if axis_name is None or not leaves:
        return per_leaf
    for name in (axis_name,) if isinstance(axis_name, str) else axis_name:
        sharded = np.asarray([_varies(leaf, name) for leaf in leaves])
        if sharded.all():
            per_leaf = jax.lax.psum(per_leaf, name)
            continue
        # The largest of equal numbers is each of them.
        same = jax.lax.pmax(per_leaf, name)
        if sharded.any():
            per_leaf = jnp.where(sharded, jax.lax.psum(per_leaf, name), same)
        else:
            per_leaf = same
    return per_leaf


def sums_over_shards(sums: Sums, gradients: PyTree, axis_name: AxisName) -> Sums:
    """Return the sums of squares of the whole leaves; see `over_shards`."""
    leaves = jax.tree.leaves(gradients)
    return Sums(*(over_shards(part, leaves, axis_name) for part in sums))


def shapes_inside(
    axis_name: AxisName, function: Callable[..., Any], *arguments: Any
) -> Any:
    """Return the shapes of a result, of a function that may reduce over the axis."""
    try:
        return jax.eval_shape(function, *arguments)
    except NameError:  # called where the axis is not mapped, as before a shard_map
        if axis_name is None:
            raise
    names = (axis_name,) if isinstance(axis_name, str) else axis_name
    for name in names:
        function = jax.vmap(function, in_axes=None, axis_name=name, axis_size=1)
    shapes = jax.eval_shape(function, *arguments)
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[len(names) :], x.dtype), shapes
    )


def _varies(leaf: Array, name: str) -> bool:
    tracked = name in _varying(jax.lax.axis_index(name))
    return not tracked or name in _varying(leaf)


def _varying(value: Array) -> frozenset[str]:
    kind: Any = jax.typeof(value)
    # The name of JAX 0.10 and newer, and the one before.
    return (
        kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma
    )
