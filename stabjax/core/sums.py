"""Sums of squares of the gradients, in one pass.

The norm is the square root of a float32 sum of squares. That sum overflows once
the gradient passes about 1.8e19, and an infinite sum does not tell whether an
element was infinite. A second sum of squares, of the gradient scaled by an exact
power of two, does: it is finite for every finite gradient. A GPU or TPU computes
both in one read. XLA on CPU would read twice, so there the second is computed only
when the first is infinite.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from stabjax.core.elementwise import saturating_sum
from stabjax.core.layout import is_inexact
from stabjax.types import Count, Scalar

# (3.4e38 * 2**-80)**2 = 8e28, so ten billion largest elements still sum in range.
SMALL_UNIT = 2.0**-80
# Leaves up to this size are stacked by shape, which makes one reduction of many.
STACK_LIMIT = 8192
# Elements that a rare second pass takes at a time.
_BLOCK = 2**12


class Sums(NamedTuple):
    """Sums of squares per leaf, in the order of `jax.tree.leaves`.

    Attributes:
        plain: In unit one; infinite where it overflows.
        small: Of the gradient times `SMALL_UNIT`.
        nonfinite: How many elements are not finite. In float32, so that it crosses
            devices together with the others: above 2**24 it is rounded.
    """

    plain: Float[Array, " leaves"]
    small: Float[Array, " leaves"]
    nonfinite: Float[Array, " leaves"]


class Measured(NamedTuple):
    """What was found in the gradients.

    Attributes:
        sums: Their sums of squares.
        repaired: Elements that were not finite and count as zero.
    """

    sums: Sums
    repaired: Count


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
    """Take both sums of squares, and count what is not finite, with few kernels.

    In one read on a GPU or TPU. What is not used of it XLA does not compute.

    Small leaves of equal shape and dtype share one reduction, so that two thousand
    tiny tensors do not become two thousand kernels.

    Args:
        gradients: Any tree of arrays.
        spread: The leaves are sharded. Then the sums are plain reductions, which
            XLA joins into one all-reduce; else they are taken together, which
            saves a kernel per large leaf.

    Returns:
        Both sums and the count of each leaf.
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
            sums |= {i: _sums_of_one(leaves[i], spread) for i in members}
        else:
            rows = jnp.stack([leaves[i].reshape(-1) for i in members])
            found = _sums(rows, (1.0, SMALL_UNIT), 1)
            sums |= {i: tuple(s[row] for s in found) for row, i in enumerate(members)}
    if not leaves:
        empty = jnp.zeros((0,), jnp.float32)
        return Sums(empty, empty, empty)
    columns = zip(*(sums[index] for index in range(len(leaves))), strict=True)
    return Sums(*(jnp.stack(column) for column in columns))


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
    plain: Float[Array, "..."], small: Float[Array, "..."], unit: Scalar | float = 1.0
) -> Float[Array, "..."]:
    """Return the root of sums of squares that are given in both units.

    Args:
        plain: The sums in unit one; infinite where they overflow.
        small: The same of everything times `SMALL_UNIT`.
        unit: What the roots are returned in, a power of two in [1, 2**80].

    Returns:
        The roots over ``unit``, same shape, without overflow up to 3e38.
    """
    root = jnp.sqrt(plain)
    huge = jnp.sqrt(small) * (1.0 / SMALL_UNIT / unit)
    return jnp.where(jnp.isinf(root), huge, root / unit)


def _sums(leaf: Array, units: tuple[float, ...], axis: int | None) -> tuple[Array, ...]:
    """Return a sum of squares per unit, and the number of non-finite elements."""
    if not is_inexact(leaf):
        return tuple(jnp.zeros((), jnp.float32) for _ in (*units, None))
    sums = [jnp.sum(x, axis=axis).astype(jnp.float32) for x in _squares(leaf, units)]
    return *sums, jnp.sum(~jnp.isfinite(leaf), axis=axis, dtype=jnp.float32)


def _sums_of_one(leaf: Array, spread: bool) -> tuple[Array, ...]:
    units = (1.0, SMALL_UNIT)
    if spread or leaf.size <= STACK_LIMIT or not is_inexact(leaf):
        return _sums(leaf, units, None)
    # XLA on CPU adds up a tuple one element after the other, which stops at 2**24.
    return jax.lax.platform_dependent(
        leaf, cpu=lambda x: _sums(x, units, None), default=_joint_sums
    )


def _joint_sums(leaf: Array) -> tuple[Array, ...]:
    # XLA takes a large sum in two stages; a tuple shares the second one as well.
    plain, small = (x.astype(jnp.float32) for x in _squares(leaf, (1.0, SMALL_UNIT)))
    zero = jnp.zeros((), jnp.float32)
    return tuple(
        jax.lax.reduce(
            (plain, small, (~jnp.isfinite(leaf)).astype(jnp.float32)),
            (zero, zero, zero),
            lambda x, y: tuple(a + b for a, b in zip(x, y, strict=True)),
            tuple(range(leaf.ndim)),
        )
    )


def remeasured(
    gradients: PyTree, plain: Float[Array, " leaves"], *, repairs: bool
) -> Measured:
    """Complete the sums in one unit by a second pass, where they call for one.

    An infinite sum may be the overflow of a finite leaf. What is not finite is counted
    and, if a guard repairs, left out of the sums.

    Args:
        gradients: Any tree of arrays.
        plain: From `sums_of_squares`.
        repairs: Whether non-finite elements count as zero.

    Returns:
        Both sums, and the count.
    """
    if plain.shape[0] == 0:
        return Measured(Sums(plain, plain, plain), jnp.zeros((), jnp.int32))

    def as_they_are() -> Measured:
        # No sum is infinite here: the same number in the other unit.
        small = square_in_unit(jnp.sqrt(plain), SMALL_UNIT)
        none = jnp.zeros((), jnp.int32)
        return Measured(Sums(plain, small, jnp.zeros_like(plain)), none)

    def by_blocks() -> Measured:
        found = [_of_blocks(leaf, repairs) for leaf in jax.tree.leaves(gradients)]
        kept, small, counts = (jnp.stack(part) for part in zip(*found, strict=True))
        if repairs:
            repaired = functools.reduce(saturating_sum, counts)
            return Measured(Sums(kept, small, jnp.zeros_like(plain)), repaired)
        nonfinite = counts.astype(jnp.float32)
        return Measured(Sums(kept, small, nonfinite), jnp.zeros((), jnp.int32))

    bad = jnp.any(~jnp.isfinite(plain))
    return jax.lax.cond(bad, by_blocks, as_they_are)


def _of_blocks(leaf: Array, repairs: bool) -> tuple[Array, ...]:
    """Return both sums, and how many elements are not finite, block by block."""
    if not is_inexact(leaf):
        zero = jnp.zeros((), jnp.float32)
        return zero, zero, jnp.zeros((), jnp.int32)
    flat = leaf.reshape(-1)
    whole = flat.size // _BLOCK * _BLOCK
    blocks = _together(flat[:whole].reshape(-1, _BLOCK), repairs)
    rest = _together(flat[None, whole:], repairs)
    plain, small, bad = (
        jnp.sum(found) + last[0] for found, last in zip(blocks, rest, strict=True)
    )
    return plain, small, bad


def _together(rows: Array, repairs: bool) -> tuple[Array, ...]:
    """Return both sums and the count of each row, taken in one reduction.

    XLA on CPU would write out what several of them add up. It adds up a tuple one
    element after the other, which for a row of this length is no loss.
    """
    fine = jnp.isfinite(rows)
    kept = jnp.where(fine, rows, jnp.zeros((), rows.dtype)) if repairs else rows
    plain, small = (x.astype(jnp.float32) for x in _squares(kept, (1.0, SMALL_UNIT)))
    zero, none = jnp.zeros((), jnp.float32), jnp.zeros((), jnp.int32)
    return tuple(
        jax.lax.reduce(
            (plain, small, (~fine).astype(jnp.int32)),
            (zero, zero, none),
            lambda x, y: tuple(a + b for a, b in zip(x, y, strict=True)),
            (1,),
        )
    )
