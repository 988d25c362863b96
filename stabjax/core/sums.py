"""Sums of squares of the gradients, in one pass.

The norm is the square root of a float32 sum of squares. That sum overflows once
the gradient passes about 1.8e19, and an infinite sum does not tell whether an
element was infinite. A second sum of squares, of the gradient scaled by an exact
power of two, does: it is finite for every finite gradient. A GPU or TPU computes
both in one read. XLA on CPU would read twice, so there the second is computed only
when the first is infinite.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from stabjax.core.elementwise import saturating_sum
from stabjax.core.layout import is_inexact
from stabjax.types import Count

# (3.4e38 * 2**-80)**2 = 8e28, so ten billion largest elements still sum in range.
SMALL_UNIT = 2.0**-80
# Leaves up to this size are stacked by shape, which makes one reduction of many.
STACK_LIMIT = 8192
# Elements that a rare second pass takes at a time.
_BLOCK = 2**16


class Sums(NamedTuple):
    """Sums of squares per leaf, in the order of `jax.tree.leaves`.

    Attributes:
        plain: In unit one; infinite where it overflows.
        small: Of the gradient times `SMALL_UNIT`, or None where it was not taken;
            then a leaf whose plain sum is infinite counts as non-finite.
    """

    plain: Float[Array, " leaves"]
    small: Float[Array, " leaves"] | None


class Measured(NamedTuple):
    """What was found in the gradients.

    Attributes:
        sums: Their sums of squares.
        repaired: Elements that were not finite and count as zero.
    """

    sums: Sums
    repaired: Count | int = 0


def sums_of_squares(gradients: PyTree, unit: float = 1.0) -> Float[Array, " leaves"]:
    """Return the float32 sum of squares of each leaf times ``unit``.

    Integer and boolean leaves have no gradient and sum to zero.

    Args:
        gradients: Any tree of arrays.
        unit: Exact power of two that multiplies each element first.

    Returns:
        One float32 per leaf, in the order of `jax.tree.leaves`.
    """
    sums = [_sums(leaf, (unit,), None)[0] for leaf in jax.tree.leaves(gradients)]
    return jnp.stack(sums) if sums else jnp.zeros((0,), jnp.float32)


def sums_in_both_units(gradients: PyTree, *, spread: bool) -> Sums:
    """Take both sums of squares in one read, with few kernels.

    Small leaves of equal shape and dtype share one reduction, so that two thousand
    tiny tensors do not become two thousand kernels.

    Args:
        gradients: Any tree of arrays.
        spread: The leaves are sharded. Then the sums are plain reductions, which
            XLA joins into one all-reduce; else they are taken pairwise, which
            saves a kernel per large leaf.

    Returns:
        Both sums of each leaf.
    """
    leaves = jax.tree.leaves(gradients)
    sums: dict[int, tuple[Array, ...]] = {}
    alike: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        small_leaf = is_inexact(leaf) and leaf.size <= STACK_LIMIT and not spread
        group = (leaf.shape, leaf.dtype) if small_leaf else index
        alike.setdefault(group, []).append(index)
    for members in alike.values():
        if len(members) < 4:
            sums |= {i: _both_sums(leaves[i], spread) for i in members}
        else:
            rows = jnp.stack([leaves[i].reshape(-1) for i in members])
            plain, small = _sums(rows, (1.0, SMALL_UNIT), 1)
            sums |= {i: (plain[row], small[row]) for row, i in enumerate(members)}
    if not leaves:
        empty = jnp.zeros((0,), jnp.float32)
        return Sums(empty, empty)
    plain, small = zip(*(sums[index] for index in range(len(leaves))), strict=True)
    return Sums(jnp.stack(plain), jnp.stack(small))


def _squares(leaf: Array, units: tuple[float, ...]) -> list[Array]:
    """Return the squared absolute values in float32 at least, once per unit."""
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        pairs = zip(_squares(leaf.real, units), _squares(leaf.imag, units), strict=True)
        return [real + imaginary for real, imaginary in pairs]
    wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    return [square_in_unit(wide, u) for u in units]


def square_in_unit(x: Float[Array, "..."], unit: float) -> Float[Array, "..."]:
    """Return ``(x * unit)**2``, right also where ``x**2`` would overflow.

    Args:
        x: Any floats.
        unit: Exact power of two.

    Returns:
        The squares, same shape and dtype.
    """
    if unit == 1.0:
        return jnp.square(x)
    scaled = x * jnp.asarray(unit, x.dtype)
    if x.size == 1:
        # XLA would make (x * x) * (u * u) of one element, infinity times zero. A
        # bound that only an infinity reaches keeps it from that.
        scaled = jnp.minimum(jnp.abs(scaled), jnp.asarray(2.0**100, x.dtype))
    return jnp.square(scaled)


def norm_of(
    plain: Float[Array, "..."], small: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Return the root of sums of squares that are given in both units.

    Args:
        plain: The sums in unit one; infinite where they overflow.
        small: The same of everything times `SMALL_UNIT`.

    Returns:
        The roots, same shape, without overflow up to 3e38.
    """
    root = jnp.sqrt(plain)
    return jnp.where(jnp.isinf(root), jnp.sqrt(small) / SMALL_UNIT, root)


def _sums(leaf: Array, units: tuple[float, ...], axis: int | None) -> tuple[Array, ...]:
    if not is_inexact(leaf):
        return tuple(jnp.zeros((), jnp.float32) for _ in units)
    squares = _squares(leaf, units)
    return tuple(jnp.sum(x, axis=axis).astype(jnp.float32) for x in squares)


def _both_sums(leaf: Array, spread: bool) -> tuple[Array, ...]:
    units = (1.0, SMALL_UNIT)
    if spread or leaf.size <= STACK_LIMIT or not is_inexact(leaf):
        return _sums(leaf, units, None)
    # XLA on CPU adds up a pair one element after the other, which stops at 2**24.
    return jax.lax.platform_dependent(
        leaf, cpu=lambda x: _sums(x, units, None), default=_paired_sums
    )


def _paired_sums(leaf: Array) -> tuple[Array, ...]:
    # XLA takes a large sum in two stages; a pair shares the second one as well.
    plain, small = (x.astype(jnp.float32) for x in _squares(leaf, (1.0, SMALL_UNIT)))
    zero = jnp.zeros((), jnp.float32)
    return tuple(
        jax.lax.reduce(
            (plain, small),
            (zero, zero),
            lambda x, y: (x[0] + y[0], x[1] + y[1]),
            tuple(range(leaf.ndim)),
        )
    )


def remeasured(
    gradients: PyTree, plain: Float[Array, " leaves"], *, repairs: bool
) -> Measured:
    """Complete the sums in one unit by a second pass, where they call for one.

    An infinite sum may be the overflow of a finite leaf; and if a guard repairs, what
    is not finite is left out of the sums and counted.

    Args:
        gradients: Any tree of arrays.
        plain: From `sums_of_squares`.
        repairs: Whether non-finite elements count as zero.

    Returns:
        Both sums, and the count.
    """
    none = jnp.zeros((), jnp.int32)

    def as_they_are() -> Measured:
        # No sum is infinite here: the same number in the other unit.
        small = square_in_unit(jnp.sqrt(plain), SMALL_UNIT)
        return Measured(Sums(plain, small), none)

    def in_small_unit() -> Measured:
        return Measured(Sums(plain, sums_of_squares(gradients, SMALL_UNIT)), none)

    if repairs:
        bad = jnp.any(~jnp.isfinite(plain))
        return jax.lax.cond(bad, lambda: _repaired_sums(gradients), as_they_are)
    ambiguous = jnp.any(jnp.isinf(plain))
    return jax.lax.cond(ambiguous, in_small_unit, as_they_are)


def _repaired_sums(gradients: PyTree) -> Measured:
    """Take both sums of the finite elements, and count the others, block by block."""
    sums, repaired = [jnp.zeros((2, 0), jnp.float32)], jnp.zeros((), jnp.int32)
    for leaf in jax.tree.leaves(gradients):
        found, bad = _sums_of_blocks(leaf)
        sums.append(found[:, None])
        repaired = saturating_sum(repaired, bad)
    return Measured(Sums(*jnp.concatenate(sums, axis=1)), repaired)


def _sums_of_blocks(leaf: Array) -> tuple[Float[Array, "2"], Count]:
    # In one piece, XLA on CPU would write out the repaired leaf and read it again.
    if not is_inexact(leaf):
        return jnp.zeros((2,), jnp.float32), jnp.zeros((), jnp.int32)
    flat = leaf.reshape(-1)
    blocks, rest = divmod(flat.size, _BLOCK)

    def sums(block: Array) -> tuple[Array, Count]:
        fine = jnp.isfinite(block)
        kept = jnp.where(fine, block, jnp.zeros((), block.dtype))
        both = jnp.stack(_sums(kept, (1.0, SMALL_UNIT), None))
        return both, jnp.sum(~fine, dtype=jnp.int32)

    def add(index: Array, total: tuple[Array, Count]) -> tuple[Array, Count]:
        block = jax.lax.dynamic_slice_in_dim(flat, index * _BLOCK, _BLOCK)
        both, bad = sums(block)
        return total[0] + both, total[1] + bad

    total = sums(flat[flat.size - rest :])
    return jax.lax.fori_loop(0, blocks, add, total) if blocks else total
