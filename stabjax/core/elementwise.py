"""What is done to every element of a tree: scale, select, repair, look for damage."""

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from stabjax.core.layout import is_inexact
from stabjax.types import Count, Flag, GroupScale, Scalar


def select(condition: Flag, new: PyTree, old: PyTree) -> PyTree:
    """Return ``new`` where ``condition`` holds, else ``old``, leaf by leaf."""
    # XLA on CPU repeats the cheap scalars behind a condition in the kernel of every
    # leaf, and compile time grows with the square of their number. It does not repeat
    # what it takes for expensive, such as a root.
    condition = jnp.sqrt(condition.astype(jnp.float32)) > 0.5
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def clip_leaves(
    gradients: PyTree, scale: Scalar | GroupScale, norm_unit: Scalar
) -> PyTree:
    """Multiply the gradients by the scale of a verdict.

    Args:
        gradients: The gradients, as they were measured.
        scale: The factor, relative to the gradient in `unit_of`.
        norm_unit: Of `StepStats`.
    """
    return scale_leaves(gradients, scale, unit_of(scale, norm_unit))


def unit_of(scale: Scalar | GroupScale, norm_unit: Scalar) -> Scalar:
    """Return what gradients are divided by before they are multiplied by ``scale``.

    The unit in which the norm was measured, where all of them are clipped: the product
    of both factors may be below the range of float32. Factors of groups are relative
    to the gradient itself, since most groups may be small.

    Args:
        scale: Of a verdict.
        norm_unit: Of `StepStats`.
    """
    one = jnp.ones((), jnp.float32)
    if isinstance(scale, GroupScale):
        return one
    return jnp.where(scale < 1.0, norm_unit, one)


def scale_leaves(
    tree: PyTree, scale: Scalar | GroupScale, unit: Scalar | None = None
) -> PyTree:
    """Multiply every floating-point leaf by one factor, or by that of its group.

    The product is taken in float32 at least and returned in the leaf's dtype.

    Args:
        tree: Any tree of arrays.
        scale: One factor, or one per group of leaves.
        unit: What the leaves are first divided by, exact power of two. None: nothing.

    Returns:
        The scaled tree.
    """
    leaves, structure = jax.tree.flatten(tree)
    if isinstance(scale, GroupScale):
        factors = scale.per_leaf()
    else:
        factors = (scale,) * len(leaves)
    scaled = [
        _times(leaf, factor, unit) if is_inexact(leaf) else leaf
        for leaf, factor in zip(leaves, factors, strict=True)
    ]
    return jax.tree.unflatten(structure, scaled)


def _times(leaf: jax.Array, factor: Scalar, unit: Scalar | None) -> jax.Array:
    wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    if unit is not None:
        wide *= (1.0 / unit).astype(wide.dtype)
    return (wide * factor.astype(wide.dtype)).astype(leaf.dtype)


def apart(scale: Scalar | GroupScale) -> Scalar | GroupScale:
    """Return the scale with many factors each in a buffer of its own, on CPU.

    A factor that is cut out of a vector makes the kernel that scales a leaf one of its
    own, because the place is part of it; and XLA compiles equal kernels once. Cut in
    halves again and again, the cuts themselves are a few kernels as well.

    Args:
        scale: From a verdict, each factor finite.

    Returns:
        The same numbers.
    """
    if not isinstance(scale, GroupScale) or not scale.many:
        return scale
    count = len(scale.factors)
    width = 1 << (count - 1).bit_length()
    padding = jnp.ones((width - count,), jnp.float32)
    parts = [jnp.concatenate([jnp.stack(scale.factors), padding])]
    while parts[0].shape[0] > 1:
        half = parts[0].shape[0] // 2
        parts = [
            side for part in parts for side in jax.lax.split(_uncut(part), (half, half))
        ]
    factors = tuple(part.reshape(()) for part in parts[:count])
    return GroupScale(factors, scale.group_of_leaf)


def _uncut(part: jax.Array) -> jax.Array:
    # The remainder changes nothing; XLA takes it for expensive, and does not repeat
    # it in what follows.
    return jax.lax.rem(part, jnp.full_like(part, 2.0**127))


def divided(scale: Scalar | GroupScale, unit: Scalar) -> Scalar | GroupScale:
    """Return the scale over ``unit``."""
    if isinstance(scale, GroupScale):
        factors = tuple(factor / unit for factor in scale.factors)
        return GroupScale(factors, scale.group_of_leaf)
    return scale / unit


def repair(tree: PyTree) -> PyTree:
    """Return the tree with zero for every element that is not finite."""

    def repaired(leaf: jax.Array) -> jax.Array:
        if not is_inexact(leaf):
            return leaf
        return jnp.where(jnp.isfinite(leaf), leaf, jnp.zeros((), leaf.dtype))

    return jax.tree.map(repaired, tree)


def nonfinite_elements(tree: PyTree) -> Count:
    """Return how many elements are not finite; stops at the largest int32."""
    total = jnp.zeros((), jnp.int32)
    for leaf in jax.tree.leaves(tree):
        if is_inexact(leaf):
            total = saturating_sum(total, jnp.sum(~jnp.isfinite(leaf), dtype=jnp.int32))
    return total


def saturating_sum(first: Count, second: Count) -> Count:
    """Return the sum of two counts, or the largest int32 if that is less."""
    room = jnp.iinfo(jnp.int32).max - first
    return first + jnp.minimum(second, room)
