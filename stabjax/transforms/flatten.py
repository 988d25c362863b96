"""Many small leaves as one vector for the optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from stabjax.core.layout import is_inexact
from stabjax.guards import check
from stabjax.transforms._common import check_inner, check_leaves, moving


class Flattened(NamedTuple):
    """What the inner optimizer sees in place of the tree.

    Attributes:
        small: One vector per dtype, of all small leaves in order.
        rest: The tree of the other leaves, None in the places of the small ones.
    """

    small: dict[str, Array]
    rest: PyTree


def flatten(
    inner: optax.GradientTransformation, *, max_size: int = 8192
) -> optax.GradientTransformationExtraArgs:
    """Give the inner optimizer all small leaves as one vector per dtype.

    Two thousand biases and scales have four thousand moments; here they have two.
    Unlike `optax.flatten`, large leaves stay as they are, since to copy them costs
    more than it saves, and dtypes are not mixed.

    It pays where a call is bound by the number of its buffers: on CPU a guarded AdamW
    step took 0.53 of its time on 300 leaves of 64 elements, and 0.60 on 2000 (medians
    on a busy machine, ``benchmarks/many_leaves.py``). It costs at compile time, 1.8 and
    1.3 times as much there, and moves each small leaf twice more. Leaves of a few
    thousand elements and more, and trees of a few dozen leaves, are better left alone.
    Steps in one `jax.lax.scan` gain more: a twentieth of a call each, flat or not.

    Args:
        inner: An optimizer that treats every element alike. One that measures or
            masks leaves (`optax.lamb`, `optax.adafactor`, `optax.masked`, weight
            decay with a mask) sees one leaf where there were many.
        max_size: Elements of the largest leaf that is moved [elements], >= 1.

    Returns:
        A gradient transformation. Its state is that of ``inner`` on `Flattened`
        parameters. Do not use it where small leaves are sharded: it would gather
        them.

    Raises:
        TypeError: If ``inner`` is no optax transformation; in `init`, if a leaf of the
            parameters is no array.
        ValueError: If ``max_size`` is out of range.

    Example:
        >>> optimizer = flatten(optax.adam(1e-3))
        >>> params = {"b": jnp.zeros(3), "c": jnp.zeros(()), "w": jnp.zeros((99, 99))}
        >>> moments = optimizer.init(params)[0].mu
        >>> moments.small["float32"].shape, moments.rest["w"].shape
        ((4,), (99, 99))
    """
    check.count("flatten", "max_size", max_size, low=1)
    check_inner("flatten", inner)
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> Any:
        check_leaves("flatten", params)
        return inner.init(_gather(params, params, max_size))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        params = moving(params, updates)
        like = updates if params is None else params
        flat_params: Any = None
        if params is not None:
            flat_params = _gather(params, like, max_size)
        flat: Any = _gather(updates, like, max_size)
        moved: Any
        moved, state = inner.update(flat, state, flat_params, **extra_args)
        return _scatter(moved, like, max_size), state

    return optax.GradientTransformationExtraArgs(init, update)


def _is_small(leaf: Any, max_size: int) -> bool:
    return is_inexact(leaf) and jnp.size(leaf) <= max_size


def _gather(tree: PyTree, like: PyTree, max_size: int) -> Flattened:
    """Return the tree with the leaves that are small in ``like`` as vectors."""
    leaves, structure = jax.tree.flatten(tree)
    parts: dict[str, list[Array]] = {}
    rest: list[Any] = []
    for leaf, alike in zip(leaves, jax.tree.leaves(like), strict=True):
        small = _is_small(alike, max_size)
        if small:
            name = str(jnp.result_type(alike))
            parts.setdefault(name, []).append(jnp.reshape(leaf, -1))
        rest.append(None if small else leaf)
    small = {name: jnp.concatenate(parts[name]) for name in sorted(parts)}
    return Flattened(small, jax.tree.unflatten(structure, rest))


def _scatter(moved: Flattened, like: PyTree, max_size: int) -> PyTree:
    """Return the tree whose small leaves are cut out of the vectors again."""
    leaves, structure = jax.tree.flatten(like)
    rest = iter(jax.tree.leaves(moved.rest))
    taken = dict.fromkeys(moved.small, 0)
    found = []
    for leaf in leaves:
        if not _is_small(leaf, max_size):
            found.append(next(rest))
            continue
        name, size = str(jnp.result_type(leaf)), jnp.size(leaf)
        # Static in a compiled program; outside of one, where a train step tries the
        # optimizer, a static slice would be compiled for every place.
        part = jax.lax.dynamic_slice_in_dim(moved.small[name], taken[name], size)
        found.append(part.reshape(jnp.shape(leaf)))
        taken[name] += size
    return jax.tree.unflatten(structure, found)
