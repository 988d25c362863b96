"""How large an update is, known before it is applied.

To bound an update by its size one has to have it first, and to write it out and read
it again moves half as much memory as the whole optimizer. So the optimizer is run on a
few elements of some leaves, of its state and of the parameters. For one that works
element by element these are elements of the very update; for others, such as one that
scales each leaf by a norm, they are not, but grow and shrink as it does. That is enough
for a bound that is learned from the same numbers.

The size is the root mean square of what moves. What rests counts for nothing: of an
embedding few rows move at a time, and a sample meets them by chance.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from stabjax.core.layout import is_inexact
from stabjax.core.sums import SMALL_UNIT, norm_of, square_in_unit
from stabjax.types import Params, Scalar

# So many leaves are looked at, the largest: each is a few kernels more to compile.
_LEAVES = 4
_ELEMENTS = 2048

Strides = tuple[tuple[int, ...] | None, ...]


def thin_strides(params: Params, trained: Sequence[bool] | None) -> Strides:
    """Return for each leaf its strides along the axes, or None: not looked at."""
    leaves = jax.tree.leaves(params)
    moves = trained or (True,) * len(leaves)
    fitting = [
        place
        for place, (leaf, moved) in enumerate(zip(leaves, moves, strict=True))
        if moved and is_inexact(leaf) and leaf.size
    ]
    largest = sorted(fitting, key=lambda place: leaves[place].size, reverse=True)
    chosen = set(largest[:_LEAVES])
    share = _ELEMENTS // max(1, len(chosen))
    return tuple(
        _strides(leaf.shape, share) if place in chosen else None
        for place, leaf in enumerate(leaves)
    )


def _strides(shape: tuple[int, ...], share: int) -> tuple[int, ...]:
    left, found = math.ceil(math.prod(shape) / share), []
    for size in shape:  # whole rows first: their elements lie together
        found.append(min(left, size))
        left = math.ceil(left / found[-1])
    return tuple(found)


def thinned(tree: PyTree, params: Params, strides: Strides) -> PyTree:
    """Return a tree with the elements of ``strides`` alone.

    A leaf of an optimizer's state is one of a parameter if its path ends in the path of
    that parameter and its shape is the same; others stay whole.

    Args:
        tree: Parameters, gradients, or a state that is made of such trees.
        params: The parameters.
        strides: From `thin_strides`; a leaf that is not looked at loses all elements.

    Returns:
        A tree of the same structure.
    """
    known = {
        path: (leaf.shape, stride)
        for (path, leaf), stride in zip(
            jax.tree_util.tree_flatten_with_path(params)[0], strides, strict=True
        )
    }

    def thin(path: tuple[Any, ...], leaf: Any) -> Any:
        for start in range(len(path) + 1):
            shape, stride = known.get(path[start:], (None, None))
            if shape is not None and shape == jnp.shape(leaf):
                return _cut(leaf, stride)
        return leaf

    return jax.tree_util.tree_map_with_path(thin, tree)


def _cut(leaf: Array, stride: tuple[int, ...] | None) -> Array:
    if stride is None:
        return jnp.zeros((0,) * leaf.ndim, leaf.dtype) if leaf.ndim else leaf
    return jax.lax.slice(leaf, [0] * leaf.ndim, leaf.shape, stride)


def runs_thinned(
    optimizer: optax.GradientTransformationExtraArgs,
    gradients: PyTree,
    state: PyTree,
    params: Params,
    extra: Mapping[str, Any],
) -> bool:
    """Return whether an optimizer takes thinned trees, and returns such updates."""

    def update(gradients: PyTree, state: PyTree, params: Params) -> PyTree:
        return optimizer.update(gradients, state, params, **extra)[0]

    try:
        updates = jax.eval_shape(update, gradients, state, params)
    except Exception:  # one that knows the shapes of its leaves
        return False
    shapes = [leaf.shape for leaf in jax.tree.leaves(updates)]
    return shapes == [leaf.shape for leaf in jax.tree.leaves(gradients)]


def size_of(updates: PyTree, strides: Strides) -> Scalar:
    """Return the root mean square of the elements that are not zero.

    Args:
        updates: Updates, thinned already.
        strides: From `thin_strides`.

    Returns:
        The size [parameter]; zero if nothing moves, not finite if an element is not.
    """
    pairs = zip(jax.tree.leaves(updates), strides, strict=True)
    flat = [
        jnp.real(leaf).astype(jnp.float32).reshape(-1)
        for leaf, stride in pairs
        if stride is not None
    ]
    if not flat:
        return jnp.zeros((), jnp.float32)
    whole = jnp.concatenate(flat)
    plain, small = (jnp.sum(square_in_unit(whole, u)) for u in (1.0, SMALL_UNIT))
    return root_mean_square(plain, small, jnp.sum(whole != 0, dtype=jnp.float32))


def root_mean_square(plain: Scalar, small: Scalar, moved: Scalar) -> Scalar:
    """Return the size from sums of squares in both units and a number of elements."""
    return norm_of(plain, small) / jnp.sqrt(jnp.maximum(moved, 1.0))
