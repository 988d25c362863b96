"""Which leaf was it: damaged before the step, or lost by it."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, PyTree

from stabjax.core.across import AxisName, over_shards
from stabjax.core.haste import jit_once
from stabjax.core.layout import is_inexact
from stabjax.types import Count, Flag

NONE = -1


def first_damaged(params: PyTree) -> int:
    """Return the index of the first leaf with an element that is not finite, or -1.

    Reads the parameters once and waits for the result; for before the first step. While
    a function is traced, or after a donation, there is nothing to read, and it is -1.
    """
    leaves = jax.tree.leaves(params)
    if not all(_is_readable(leaf) for leaf in leaves):
        return NONE
    inexact = [index for index, leaf in enumerate(leaves) if is_inexact(leaf)]
    found = [leaves[index] for index in inexact]
    if all(_on_this_cpu(leaf) for leaf in found):
        fine = [bool(np.isfinite(np.asarray(leaf)).all()) for leaf in found]
    else:
        fine = np.asarray(jit_once(_all_finite)(found)).tolist() if found else []
    bad = [index for index, good in zip(inexact, fine, strict=True) if not good]
    return bad[0] if bad else NONE


def first_lost(old: PyTree, new: PyTree, axis_name: AxisName = None) -> Count:
    """Return the index of the first leaf in which a finite element no longer is, or -1.

    Args:
        old: A tree of arrays.
        new: One of the same structure.
        axis_name: The mapped axis that shards them, see `across.over_shards`.
    """
    pairs = list(zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True))
    inexact = [index for index, (_, after) in enumerate(pairs) if is_inexact(after)]
    if not inexact:
        return jnp.int32(NONE)
    # Counted, not or-ed: across devices XLA joins it with the sums of the step.
    counts = jnp.stack([_lost_elements(*pairs[index]) for index in inexact])
    counts = over_shards(counts, [pairs[index][1] for index in inexact], axis_name)
    places = np.asarray(inexact, np.int32)
    first = jnp.min(jnp.where(counts > 0, places, jnp.int32(len(pairs))))
    return jnp.where(first < len(pairs), first, NONE)


def becomes_nonfinite(old: PyTree, new: PyTree) -> Flag:
    """Return whether any element that was finite no longer is."""
    return first_lost(old, new) >= 0


def owners(state: PyTree, params: PyTree) -> tuple[int, ...]:
    """Return for each leaf of an optimizer state the parameter that it belongs to.

    A leaf such as ``mu/dense/kernel`` belongs to the parameter whose path its own ends
    with; the number of parameters stands for none.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    place = {path: index for index, path in enumerate(paths)}

    def owner(path: tuple[Any, ...]) -> int:
        tails = (path[start:] for start in range(len(path)))
        return next((place[tail] for tail in tails if tail in place), len(paths))

    named = jax.tree_util.tree_leaves_with_path(state)
    return tuple(owner(path) for path, _ in named)


def lost_parameter(
    params: PyTree,
    new_params: PyTree,
    inner: PyTree,
    new_inner: PyTree,
    axis_name: AxisName = None,
) -> Count:
    """Return the first parameter that a step would lose, in itself or in its moments.

    Args:
        params: Parameters, or zeros in the place of updates.
        new_params: What a step makes of them.
        inner: State of the optimizer.
        new_inner: What the step makes of it.
        axis_name: The mapped axis that shards them, see `across.over_shards`.

    Returns:
        Its index; the number of parameters if something was lost that belongs to none
        of them; -1 if nothing was.
    """
    first = first_lost(params, new_params, axis_name)
    behind = first_lost(inner, new_inner, axis_name)
    owner = jnp.asarray(np.asarray((*owners(inner, params), NONE), np.int32))
    return jnp.where(first >= 0, first, jnp.where(behind >= 0, owner[behind], NONE))


def _lost_elements(before: Array, after: Array) -> Array:
    gone = jnp.isfinite(before) & ~jnp.isfinite(after)
    return jnp.sum(gone, dtype=jnp.float32)


def _all_finite(leaves: list[Array]) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])


def _is_readable(leaf: Any) -> bool:
    if isinstance(leaf, Tracer):
        return False
    return not (isinstance(leaf, jax.Array) and leaf.is_deleted())


def _on_this_cpu(leaf: Any) -> bool:
    if not isinstance(leaf, jax.Array):
        return True
    alone = leaf.is_fully_addressable and len(leaf.sharding.device_set) == 1
    return alone and next(iter(leaf.sharding.device_set)).platform == "cpu"
