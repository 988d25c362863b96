"""Does a function commute with the transformations of its input?"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from stabjax.numerics import masked_mean
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen

Distance = Literal["squared", "cross_entropy"]


def _squared(output: Array, expected: Array, mask: Array) -> Array:
    gap = jnp.where(mask, widen(output) - widen(expected), 0.0)
    return masked_mean(gap * gap, mask)


def _divergence(output: Array, expected: Array, mask: Array) -> Array:
    """Average the divergence of softmax(output) from softmax(expected)."""
    fixed = jax.lax.stop_gradient(expected)
    output = jnp.where(mask[..., None], widen(output), 0.0)
    target = jax.nn.log_softmax(jnp.where(mask[..., None], widen(fixed), 0.0))
    chance = jnp.exp(target)
    # A class that cannot be has a log-probability of -inf on both sides.
    possible = chance > 0.0
    excess = jnp.where(possible, target, 0.0)
    excess -= jnp.where(possible, jax.nn.log_softmax(output), 0.0)
    return masked_mean(jnp.sum(chance * excess, axis=-1), mask)


def equivariance_loss(
    outputs: PyTree[Float[Array, "..."]],
    expected: PyTree[Float[Array, "..."]],
    *,
    mask: PyTree[Bool[Array, "..."]] | None = None,
    distance: Distance = "squared",
) -> Float[Array, ""]:
    """Compare ``f(g x)`` with ``g f(x)``, leaf by leaf.

    ``"squared"``: ``mean((f(g x) - g f(x))**2)``. ``"cross_entropy"``: the last axis
    holds logits, ``mean(sum_c p_c (log p_c - log q_c))`` with ``q = softmax(f(g x))``
    and ``p = softmax(g f(x))`` as the target: the cross-entropy less the entropy of
    its target, so that zero means equal. Each leaf counts the same.

    Compare *outputs*. A loss on features that were pooled over positions is zero
    from the start, whatever the function, because pooling forgets the
    transformation: seed 004 trained on such a zero.

    Args:
        outputs: The function of the transformed input, arrays or a pytree of them.
        expected: The transformed function of the input, the same structure.
        mask: The entries that count, the same structure: of the shape of the leaf,
            for ``"cross_entropy"`` without its last axis; all by default. Cells that
            only pad a grid must not count, and are to be moved with the grid.
        distance: The measure.

    Returns:
        The loss, float32 (float64 for float64 leaves); zero if no entry counts.
        Differences up to 1e18, logits up to 1e37.

    Raises:
        AssertionError: If the structures or the shapes differ.
        ValueError: If ``distance`` is neither, or there is no array.

    Gradient:
        Of ``"squared"`` ``2 (outputs - expected) / n`` and its negative; of
        ``"cross_entropy"`` ``(q - p) / n`` for ``outputs`` and none for
        ``expected``: a target that could move would end at one and the same guess.

    Source:
        Seed 004 (OutputEquivarianceLoss); Cohen & Welling (2016), arXiv:1602.07576.

    Example:
        >>> grid = jnp.arange(4.0).reshape(2, 2)
        >>> blur = lambda x: x + jnp.roll(x, 1, axis=0)
        >>> turned = dihedral(grid, 1)
        >>> float(equivariance_loss(blur(turned), dihedral(blur(grid), 1)))
        5.0
    """
    distances = {"squared": _squared, "cross_entropy": _divergence}
    if distance not in distances:
        raise ValueError(
            f"equivariance_loss: distance must be among {sorted(distances)}, "
            f"got {distance!r}."
        )
    chex.assert_trees_all_equal_structs(outputs, expected)
    chex.assert_trees_all_equal_shapes(outputs, expected)
    leaves = jax.tree.leaves(outputs)
    if not leaves:
        raise ValueError("equivariance_loss: outputs must hold an array, got none.")
    shapes = [x.shape if distance == "squared" else x.shape[:-1] for x in leaves]
    if mask is None:
        masks = [jnp.ones(shape, jnp.bool_) for shape in shapes]
    else:
        chex.assert_trees_all_equal_structs(outputs, mask)
        masks = jax.tree.leaves(mask)
    for one, shape in zip(masks, shapes, strict=True):
        chex.assert_shape(one, shape)
    losses = [
        distances[distance](*triple)
        for triple in zip(leaves, jax.tree.leaves(expected), masks, strict=True)
    ]
    return sum(losses[1:], start=losses[0]) / len(losses)


def _turns(function: str, element: int) -> tuple[int, bool]:
    check_range(function, "element", element, low=0, high=7)
    return element % 4, element >= 4


def dihedral(
    x: Shaped[Array, "..."], element: int, *, axes: tuple[int, int] = (-2, -1)
) -> Shaped[Array, "..."]:
    """Turn a grid by quarters, mirrored first for the upper half of the group.

    ``element % 4`` quarter turns from the first of ``axes`` toward the second, after
    reversing the second axis if ``element >= 4``: the eight symmetries of a square.

    Args:
        x: Grids; ``axes`` need not be equally long.
        element: Which symmetry, a whole number in [0, 7]; 0 changes nothing.
        axes: The two axes of the grid.

    Returns:
        The turned grids, of the dtype of ``x``.

    Raises:
        ValueError: If ``element`` is outside its range.

    Gradient:
        A permutation: that of the inverse element.

    Source:
        The dihedral group of order eight.

    Example:
        >>> dihedral(jnp.array([[1, 2], [3, 4]]), 1).tolist()
        [[2, 4], [1, 3]]
    """
    quarters, mirrored = _turns("dihedral", element)
    return jnp.rot90(jnp.flip(x, axes[1]) if mirrored else x, quarters, axes)


def dihedral_inverse(element: int) -> int:
    """Return the element that undoes another.

    Args:
        element: A symmetry as in `dihedral`, [0, 7].

    Returns:
        The element e with ``dihedral(dihedral(x, element), e) == x``.

    Raises:
        ValueError: If ``element`` is outside its range.

    Source:
        A mirrored turn undoes itself.

    Example:
        >>> [dihedral_inverse(element) for element in range(8)]
        [0, 3, 2, 1, 4, 5, 6, 7]
    """
    quarters, mirrored = _turns("dihedral_inverse", element)
    return element if mirrored else -quarters % 4
