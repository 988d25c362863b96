"""Inner products of the gradients of components, without overflow."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.core.layout import is_inexact
from stabjax.numerics._precision import power_of_two
from stabjax.types import Params


class Gram(NamedTuple):
    """Inner products of gradients that are each divided by a power of two.

    Attributes:
        products: ``<g_i, g_j> / (units_i units_j)``, float32.
        units: The powers of two below the largest element of each.
    """

    products: Float[Array, "components components"]
    units: Float[Array, " components"]

    def cosines(self) -> Float[Array, "components components"]:
        """Return the cosines, in [-1, 1]; zero where a gradient is zero."""
        norms = jnp.sqrt(jnp.diagonal(self.products))
        # In its unit a gradient that is not zero has a norm of at least one.
        unit = jnp.where(norms == 0.0, 1.0, norms)
        return jnp.clip(self.products / unit[:, None] / unit[None, :], -1.0, 1.0)


def gram(gradients: list[Params]) -> Gram:
    """Return the inner products of gradients over all their leaves, in float32.

    Args:
        gradients: Trees of the same structure, any floating dtype.

    Returns:
        The products in units that keep them in range.
    """
    trees = [[g for g in jax.tree.leaves(tree) if is_inexact(g)] for tree in gradients]
    units = jnp.stack([_unit(leaves) for leaves in trees])
    products = jnp.zeros((len(trees), len(trees)), jnp.float32)
    for leaves in zip(*trees, strict=True):
        rows = jnp.stack([_real(leaf) for leaf in leaves])
        rows = rows * (1.0 / units).reshape(-1, *(1,) * (rows.ndim - 1))
        # A product and a sum, not a matrix product: that one has rounded factors on
        # accelerators, and does not say how its result is sharded.
        pairs = rows[:, None] * rows[None, :]
        products += jnp.sum(pairs, axis=tuple(range(2, pairs.ndim)))
    return Gram(products, units)


def _real(leaf: Array) -> Array:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        leaf = jnp.stack([leaf.real, leaf.imag])
    return leaf.astype(jnp.float32)


def _unit(leaves: list[Array]) -> Array:
    sizes = [jnp.max(jnp.abs(_real(leaf)), initial=0.0) for leaf in leaves]
    return power_of_two(functools.reduce(jnp.maximum, sizes, jnp.float32(0.0)))
