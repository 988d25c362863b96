"""One pass over the gradients: norms, finiteness, first bad leaf.

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
import numpy as np
from jaxtyping import Array, Float, PyTree

from stabjax.core.layout import is_inexact, layout_of
from stabjax.types import Aux, Count, Flag, Scalar, StepStats

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
        # Infinite: what is not measured proves nothing finite.
        return Measured(Sums(plain, jnp.full_like(plain, jnp.inf)), none)

    def in_small_unit() -> Measured:
        return Measured(Sums(plain, sums_of_squares(gradients, SMALL_UNIT)), none)

    if repairs:
        bad = jnp.any(~jnp.isfinite(plain))
        return jax.lax.cond(bad, lambda: _repaired_sums(gradients), as_they_are)
    ambiguous = jnp.any(jnp.isinf(plain))
    return jax.lax.cond(ambiguous, in_small_unit, as_they_are)


def _repaired_sums(gradients: PyTree) -> Measured:
    """Take both sums of the finite elements, and count the others, block by block."""
    nothing = jnp.zeros((3, 0), jnp.float32)
    found = [_sums_of_blocks(leaf)[:, None] for leaf in jax.tree.leaves(gradients)]
    plain, small, counts = jnp.concatenate([nothing, *found], axis=1)
    count = jnp.minimum(jnp.sum(counts), jnp.float32(2**31 - 128))
    return Measured(Sums(plain, small), count.astype(jnp.int32))


def _sums_of_blocks(leaf: Array) -> Float[Array, "3"]:
    # In one piece, XLA on CPU would write out the repaired leaf and read it again.
    if not is_inexact(leaf):
        return jnp.zeros((3,), jnp.float32)
    flat = leaf.reshape(-1)
    blocks, rest = divmod(flat.size, _BLOCK)

    def sums(block: Array) -> Array:
        fine = jnp.isfinite(block)
        kept = jnp.where(fine, block, jnp.zeros((), block.dtype))
        bad = jnp.sum(~fine, dtype=jnp.float32)
        return jnp.stack([*_sums(kept, (1.0, SMALL_UNIT), None), bad])

    def add(index: Array, total: Array) -> Array:
        block = jax.lax.dynamic_slice_in_dim(flat, index * _BLOCK, _BLOCK)
        return total + sums(block)

    total = sums(flat[flat.size - rest :])
    return jax.lax.fori_loop(0, blocks, add, total) if blocks else total


def components_of(aux: Aux) -> dict[str, Scalar]:
    """Return the named loss components of ``aux`` in float32."""
    return {
        name: jnp.asarray(value, jnp.float32)
        for name, value in sorted(aux.items())
        if name.startswith(("raw/", "weighted/"))
    }


def metrics_of(aux: Aux) -> dict[str, Scalar]:
    """Return every other scalar of ``aux`` in float32."""
    components = components_of(aux)
    return {
        name: jnp.asarray(value).astype(jnp.float32)
        for name, value in sorted(aux.items())
        if name != "model_state" and name not in components
    }


class Progress(NamedTuple):
    """What a step has to know of the steps before it.

    Attributes:
        step: Attempted steps.
        applied: Applied steps.
        consecutive_refused: Streak of refusals.
        update_norm: Norm of the last applied update, NaN if not measured.
        update_ratio: The same over the norm of the parameters.
    """

    step: Count
    applied: Count
    consecutive_refused: Count
    update_norm: Scalar
    update_ratio: Scalar


def step_stats(
    gradients: PyTree,
    sums: Sums,
    loss: Scalar,
    components: dict[str, Scalar],
    progress: Progress,
    model_state_finite: Flag | bool = True,
    *,
    metrics: dict[str, Scalar] | None = None,
    repaired: Count | int = 0,
    unit: Scalar | None = None,
) -> StepStats:
    """Turn the sums of one step into the scalars that guards judge on.

    ``norm = sqrt(sum_i g_i**2)``, in float32.

    Args:
        gradients: The gradient tree; only its structure is used.
        sums: What `sums_in_both_units` or `sums_of_squares` measured.
        loss: Total loss.
        components: From `components_of`.
        progress: Counters before this step.
        model_state_finite: Whether the new model state is finite.
        metrics: From `metrics_of`.
        repaired: How many elements were set to zero before.
        unit: What the gradient was multiplied by; norms are divided by it.

    Returns:
        The statistics: scalars, and one norm per leaf.
    """
    loss = jnp.asarray(loss, jnp.float32)
    plain, small = sums
    leaf_norms = jnp.sqrt(plain)
    leaf_finite = jnp.isfinite(plain)
    if small is not None:
        leaf_norms = jnp.where(leaf_finite, leaf_norms, jnp.sqrt(small) / SMALL_UNIT)
        leaf_finite |= jnp.isinf(plain) & jnp.isfinite(small)
    total, huge, first_bad = _over_leaves(plain, small, leaf_norms, leaf_finite)
    gradient_finite = first_bad < 0
    # The sum over leaves can overflow although no leaf does.
    overflow = gradient_finite & jnp.isinf(total)
    grad_norm = jnp.where(overflow, jnp.sqrt(huge) / SMALL_UNIT, jnp.sqrt(total))
    if unit is not None:
        grad_norm, leaf_norms = grad_norm / unit, leaf_norms / unit
    fine = _finite_flags(components)
    loss_finite = jnp.isfinite(loss)
    state_finite = jnp.asarray(model_state_finite, jnp.bool_)
    return StepStats(
        loss=loss,
        components=components,
        grad_norm=jnp.where(gradient_finite, grad_norm, jnp.float32(jnp.nan)),
        leaf_norms=leaf_norms,
        finite=loss_finite & jnp.all(fine) & gradient_finite & state_finite,
        loss_finite=loss_finite,
        components_finite=jnp.all(fine),
        gradient_finite=gradient_finite,
        model_state_finite=state_finite,
        overflow=overflow,
        first_bad_leaf=first_bad,
        first_bad_component=_first(~fine),
        update_norm=progress.update_norm,
        update_ratio=progress.update_ratio,
        step=progress.step,
        applied=progress.applied,
        consecutive_refused=progress.consecutive_refused,
        repaired=jnp.asarray(repaired, jnp.int32),
        metrics=metrics or {},
        layout=layout_of(gradients),
    )


def _over_leaves(
    plain: Array, small: Array | None, leaf_norms: Array, leaf_finite: Array
) -> tuple[Scalar, Scalar, Count]:
    """Reduce over the leaves at once: both sums, and the first bad leaf or -1."""
    leaves = plain.shape[0]
    if small is None:
        small = square_in_unit(leaf_norms, SMALL_UNIT)
    places = jnp.arange(leaves, dtype=jnp.int32)
    total, huge, first = jax.lax.reduce(
        (plain, small, jnp.where(leaf_finite, leaves, places)),
        (jnp.float32(0), jnp.float32(0), jnp.int32(leaves)),
        lambda x, y: (x[0] + y[0], x[1] + y[1], jnp.minimum(x[2], y[2])),
        (0,),
    )
    return total, huge, jnp.where(first < leaves, first, -1)


def group_norms(
    leaf_norms: Float[Array, " leaves"], group_of_leaf: tuple[int, ...], groups: int
) -> tuple[Scalar, ...]:
    """Return the norm of each group from the norms of its leaves.

    Args:
        leaf_norms: Norm of each leaf.
        group_of_leaf: Index of the group of each leaf.
        groups: How many groups there are; an empty one has norm zero.

    Returns:
        One scalar per group, without overflow up to 1e38.
    """
    # In both units, so that one huge group does not flush the others to zero.
    squares = [square_in_unit(leaf_norms, unit) for unit in (1.0, SMALL_UNIT)]
    member = np.asarray(group_of_leaf)
    shares = [
        jnp.where(member == group, square, 0.0)
        for group in range(groups)
        for square in squares
    ]
    sums = jax.lax.reduce(
        tuple(shares),
        (jnp.float32(0),) * len(shares),
        lambda x, y: tuple(a + b for a, b in zip(x, y, strict=True)),
        (0,),
    )
    roots = [jnp.sqrt(total) for total in sums]
    return tuple(
        jnp.where(jnp.isfinite(plain), plain, small / SMALL_UNIT)
        for plain, small in zip(roots[::2], roots[1::2], strict=True)
    )


def _finite_flags(components: dict[str, Scalar]) -> Array:
    values = [components[name] for name in sorted(components)]
    return jnp.isfinite(jnp.stack(values)) if values else jnp.ones((1,), jnp.bool_)


def _first(bad: Array) -> Count:
    """Return the index of the first true entry, -1 if there is none."""
    if bad.shape[0] == 0:
        return jnp.int32(-1)
    return jnp.where(jnp.any(bad), jnp.argmax(bad).astype(jnp.int32), jnp.int32(-1))
