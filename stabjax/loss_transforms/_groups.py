"""Groups of parameters by path prefix, and their norms."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.core import groups as named
from stabjax.core.layout import layout_of
from stabjax.core.measure import group_norms
from stabjax.core.sums import SMALL_UNIT, sums_of_squares
from stabjax.types import Params, Scalar


class Groups(NamedTuple):
    """Groups of the leaves of a parameter tree.

    Attributes:
        names: The prefixes, and ``rest`` if it has a leaf.
        of_leaf: Index into ``names`` of each leaf.
    """

    names: tuple[str, ...]
    of_leaf: tuple[int, ...]


def groups_of(origin: str, params: Params, prefixes: Sequence[str]) -> Groups:
    """Sort the leaves of a tree into groups.

    Args:
        origin: The function that asks, for messages.
        params: The tree.
        prefixes: Paths such as ``"decoder"``; a leaf belongs to the longest that
            fits, and leaves that none fits form the group ``rest``.

    Returns:
        The groups.

    Raises:
        ValueError: If no leaf lies under a prefix, with the nearest one.
    """
    of_leaf = named.members(origin, layout_of(params), tuple(prefixes))
    rest = (named.REST,) if len(prefixes) in of_leaf else ()
    return Groups((*prefixes, *rest), of_leaf)


def shared_leaves(
    origin: str, params: Params, prefixes: Sequence[str]
) -> tuple[int, ...]:
    """Return the indices of the leaves under any of ``shared``; without one, of all."""
    of_leaf = groups_of(origin, params, prefixes).of_leaf
    inside = len(prefixes) or 1
    return tuple(index for index, group in enumerate(of_leaf) if group < inside)


def norm_of_leaves(gradient: Params, members: tuple[int, ...]) -> Scalar:
    """Return the norm over some leaves; the others need not be computed."""
    leaves = jax.tree.leaves(gradient)
    chosen = [leaves[index] for index in members]
    return norms_by_group(chosen, Groups(("chosen",), (0,) * len(chosen)))[0]


def norms_by_group(gradient: Params, groups: Groups) -> tuple[Scalar, ...]:
    """Return the norm of each group, in float32 and without overflow up to 1e38."""
    norms = _leaf_norms(gradient)
    return group_norms(norms, groups.of_leaf, len(groups.names))


def _leaf_norms(gradient: Params) -> Float[Array, " leaves"]:
    plain = sums_of_squares(gradient)
    small = sums_of_squares(gradient, SMALL_UNIT)
    fine = jnp.isfinite(plain)
    return jnp.where(fine, jnp.sqrt(plain), jnp.sqrt(small) / SMALL_UNIT)
