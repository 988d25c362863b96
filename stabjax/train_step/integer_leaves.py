"""Leaves among the parameters that no gradient moves: counters, indices, masks.

They stay in the tree, with a gradient of zero, and the optimizer never sees them:
weight decay would round them, and float32 does not hold a large integer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core.layout import is_inexact


def gradient_of(
    function: Callable[[PyTree], tuple[Any, Any]], params: PyTree
) -> tuple[PyTree, Any]:
    """Return ``jax.grad(function, has_aux=True)(params)``, zero for integer leaves.

    Args:
        function: ``params -> (value, aux)``.
        params: Any tree of arrays.

    Returns:
        The gradient, with zeros of their own dtype for leaves that have none, and aux.

    Example:
        >>> params = {"seen": jnp.int32(7), "w": jnp.float32(3.0)}
        >>> gradient, _ = gradient_of(lambda p: (p["w"] ** 2, None), params)
        >>> int(gradient["seen"]), float(gradient["w"])
        (0, 6.0)
    """
    leaves, structure = jax.tree.flatten(params)

    def of_moving(moving: list[Any]) -> tuple[Any, Any]:
        rest = iter(moving)
        whole = [next(rest) if is_inexact(leaf) else leaf for leaf in leaves]
        return function(jax.tree.unflatten(structure, whole))

    moving = [leaf for leaf in leaves if is_inexact(leaf)]
    found, aux = jax.grad(of_moving, has_aux=True)(moving)
    rest = iter(found)
    gradient = [
        next(rest) if is_inexact(leaf) else jnp.zeros_like(leaf) for leaf in leaves
    ]
    return jax.tree.unflatten(structure, gradient), aux


def filled(gradients: PyTree, params: PyTree) -> PyTree:
    """Return a gradient with zeros where an integer leaf has none, or a float0 one."""
    none = lambda leaf: leaf is None
    leaves = jax.tree.leaves(gradients, is_leaf=none)
    places, structure = jax.tree.flatten(params, is_leaf=none)
    if len(leaves) != len(places):
        return gradients
    return jax.tree.unflatten(
        structure,
        [
            gradient
            if place is None or is_inexact(place)
            else jnp.zeros_like(jnp.asarray(place))
            for gradient, place in zip(leaves, places, strict=True)
        ],
    )


def around_integers(
    optimizer: optax.GradientTransformation,
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer with integer leaves kept from it; their update is zero.

    Args:
        optimizer: Any optax optimizer.

    Returns:
        The same, with a state that has None in the places of integer leaves.
    """
    inner = optax.with_extra_args_support(optimizer)

    def init(params: PyTree) -> PyTree:
        return inner.init(_moving(params))

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        if _all_move(updates):
            return inner.update(updates, state, params, **extra_args)
        given = None if params is None else _moving(params)
        moved, state = inner.update(_moving(updates), state, given, **extra_args)
        return _with_zeros(moved, updates), state

    return optax.GradientTransformationExtraArgs(init, update)


def _all_move(tree: PyTree) -> bool:
    return all(is_inexact(leaf) for leaf in jax.tree.leaves(tree))


def _moving(tree: PyTree) -> PyTree:
    if _all_move(tree):
        return tree
    return jax.tree.map(lambda leaf: leaf if is_inexact(leaf) else None, tree)


def _with_zeros(moved: PyTree, like: PyTree) -> PyTree:
    return jax.tree.map(
        lambda old, new: new if is_inexact(old) else jnp.zeros_like(old), like, moved
    )
