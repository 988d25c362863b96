"""Names of the leaves of a parameter tree, fixed when a step is traced."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from stabjax.types import Layout


def leaf_name(path: tuple[Any, ...]) -> str:
    """Return a tree path as text, ``encoder/dense/kernel``.

    Example:
        >>> import jax
        >>> [(path, _)] = jax.tree_util.tree_leaves_with_path({"a": [1.0]})
        >>> leaf_name(path)
        'a/0'
    """
    return jax.tree_util.keystr(path, simple=True, separator="/") or "parameters"


def layout_of(tree: Any) -> Layout:
    """Return the layout of a tree, leaves in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return Layout(
        leaves=tuple(leaf_name(path) for path, _ in leaves),
        sizes=tuple(math.prod(jnp.shape(leaf)) for _, leaf in leaves),
    )


def is_inexact(leaf: Any) -> bool:
    """Return whether a leaf can hold a NaN: real or complex floating point."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)
