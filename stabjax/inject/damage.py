"""Faults in the leaves of a tree."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from stabjax.core.layout import is_inexact, leaf_name
from stabjax.inject.fault import Fault, nearest
from stabjax.types import Count, Flag

# The square of it overflows float32, and the element itself fits into bfloat16.
_OVERFLOW = 2.0**100


def damage(tree: PyTree, faults: tuple[Fault, ...], step: Count) -> PyTree:
    """Return the tree after all faults; ``where`` is a path in it.

    Args:
        tree: Any tree.
        faults: Applied in this order.
        step: Compared with ``when``.

    Returns:
        The same tree with the damaged elements.

    Raises:
        ValueError: If nothing floating-point lies at ``where``.
    """
    for fault in faults:
        tree = _damage_once(tree, fault, fault.fires(step))
    return tree


def _damage_once(tree: PyTree, fault: Fault, fire: Flag) -> PyTree:
    found, structure = jax.tree_util.tree_flatten_with_path(tree)
    names = [leaf_name(path) for path, _ in found]
    leaves = [leaf for _, leaf in found]
    hit = [
        index
        for index, (name, leaf) in enumerate(zip(names, leaves, strict=True))
        if f"{name}/".startswith(f"{fault.where}/") and is_inexact(leaf)
    ]
    if not hit:
        raise ValueError(
            f"inject: no floating-point leaf lies under {fault.where!r}"
            f"{nearest(fault.where, names)}"
        )
    for index in hit:
        leaf = jnp.asarray(leaves[index])
        here = fire & _chosen(fault, names[index], leaf)
        leaves[index] = jnp.where(here, _broken(fault, leaf), leaf)
    return jax.tree.unflatten(structure, leaves)


def _chosen(fault: Fault, name: str, leaf: Array) -> Flag | Array:
    if fault.element is None:
        return jnp.ones((), jnp.bool_)
    if not -leaf.size <= fault.element < leaf.size:
        raise ValueError(
            f"inject: element must be in [{-leaf.size}, {leaf.size - 1}] for {name}, "
            f"got {fault.element}."
        )
    places = jax.lax.iota(jnp.int32, leaf.size).reshape(leaf.shape)
    return places == fault.element % leaf.size


def _broken(fault: Fault, leaf: Array) -> Array:
    if fault.kind == "spike":
        return (leaf * fault.factor).astype(leaf.dtype)
    if fault.kind == "bit_flip":
        return _with_bit_flipped(leaf, fault.bit)
    largest = float(jnp.finfo(leaf.dtype).max)
    fixed = {"overflow": min(_OVERFLOW, largest), "frozen": fault.value}
    value = fixed.get(fault.kind)
    return jnp.full_like(leaf, float(fault.kind) if value is None else value)


def _with_bit_flipped(leaf: Array, bit: int) -> Array:
    width = 8 * leaf.dtype.itemsize
    if jnp.iscomplexobj(leaf) or bit >= width:
        raise ValueError(
            f"inject: a bit_flip must name a bit below the width of a real number, "
            f"got bit {bit} of {leaf.dtype}."
        )
    pattern = jax.lax.bitcast_convert_type(leaf, f"uint{width}")
    flipped = pattern ^ jnp.asarray(1 << bit, pattern.dtype)
    return jax.lax.bitcast_convert_type(flipped, leaf.dtype)
