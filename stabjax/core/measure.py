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
from jaxtyping import Array, Float, PyTree

from stabjax.core.layout import is_inexact, layout_of
from stabjax.types import Aux, Count, Flag, Scalar, StepStats

# (3.4e38 * 2**-80)**2 = 8e28, so ten billion largest elements still sum in range.
SMALL_UNIT = 2.0**-80
# Leaves up to this size are stacked by shape, which makes one reduction of many.
STACK_LIMIT = 8192


def sums_of_squares(gradients: PyTree, unit: float = 1.0) -> Float[Array, " leaves"]:
    """Return the float32 sum of squares of each leaf times ``unit``.

    Integer and boolean leaves have no gradient and sum to zero. Small leaves of
    equal shape and dtype share one reduction, so that two thousand tiny tensors do
    not become two thousand kernels.

    Args:
        gradients: Any tree of arrays.
        unit: Exact power of two that multiplies each element first.

    Returns:
        One float32 per leaf, in the order of `jax.tree.leaves`.
    """
    leaves = jax.tree.leaves(gradients)
    sums: dict[int, Array] = {}
    alike: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        if not is_inexact(leaf):
            sums[index] = jnp.zeros((), jnp.float32)
        elif leaf.size > STACK_LIMIT:
            sums[index] = _sum_of_squares(leaf, unit)
        else:
            alike.setdefault((leaf.shape, leaf.dtype), []).append(index)
    for members in alike.values():
        if len(members) < 4:
            sums |= {i: _sum_of_squares(leaves[i], unit) for i in members}
        else:
            stacked = jnp.stack([leaves[i].reshape(-1) for i in members])
            per_leaf = _sum_of_squares(stacked, unit, axis=1)
            sums |= {i: per_leaf[row] for row, i in enumerate(members)}
    if not leaves:
        return jnp.zeros((0,), jnp.float32)
    return jnp.stack([sums[index] for index in range(len(leaves))])


def _sum_of_squares(leaf: Array, unit: float, axis: int | None = None) -> Array:
    if jnp.issubdtype(leaf.dtype, jnp.complexfloating):
        real = _sum_of_squares(leaf.real, unit, axis)
        return real + _sum_of_squares(leaf.imag, unit, axis)
    wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    if unit != 1.0:
        wide = wide * jnp.asarray(unit, wide.dtype)
    return jnp.sum(jnp.square(wide), axis=axis).astype(jnp.float32)


def is_ambiguous(plain: Float[Array, " leaves"]) -> Flag:
    """Return whether an infinite sum may be the overflow of a finite gradient."""
    return jnp.any(jnp.isinf(plain)) & ~jnp.any(jnp.isnan(plain))


def components_of(aux: Aux) -> dict[str, Scalar]:
    """Return the named loss components of ``aux`` in float32."""
    return {
        name: jnp.asarray(value, jnp.float32)
        for name, value in sorted(aux.items())
        if name.startswith(("raw/", "weighted/"))
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
    plain: Float[Array, " leaves"],
    small: Float[Array, " leaves"] | None,
    loss: Scalar,
    components: dict[str, Scalar],
    progress: Progress,
    model_state_finite: Flag | bool = True,
) -> StepStats:
    """Turn the sums of one step into the scalars that guards judge on.

    ``norm = sqrt(sum_i g_i**2)``, in float32.

    Args:
        gradients: The gradient tree; only its structure is used.
        plain: `sums_of_squares` in unit one.
        small: The same in `SMALL_UNIT`, or None where it was not computed; then a
            leaf whose plain sum is infinite counts as non-finite.
        loss: Total loss.
        components: From `components_of`.
        progress: Counters before this step.
        model_state_finite: Whether the new model state is finite.

    Returns:
        The statistics: scalars, and one norm per leaf.
    """
    loss = jnp.asarray(loss, jnp.float32)
    leaf_norms = jnp.sqrt(plain)
    leaf_finite = jnp.isfinite(plain)
    if small is not None:
        leaf_norms = jnp.where(leaf_finite, leaf_norms, jnp.sqrt(small) / SMALL_UNIT)
        leaf_finite |= jnp.isinf(plain) & jnp.isfinite(small)
    gradient_finite = jnp.all(leaf_finite)
    total = jnp.sum(plain)
    overflow = gradient_finite & jnp.isinf(total)
    # The sum over leaves can overflow although no leaf does.
    huge_norm = jnp.sqrt(jnp.sum(jnp.square(leaf_norms * SMALL_UNIT))) / SMALL_UNIT
    grad_norm = jnp.where(overflow, huge_norm, jnp.sqrt(total))
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
        first_bad_leaf=_first(~leaf_finite),
        first_bad_component=_first(~fine),
        update_norm=progress.update_norm,
        update_ratio=progress.update_ratio,
        step=progress.step,
        applied=progress.applied,
        consecutive_refused=progress.consecutive_refused,
        layout=layout_of(gradients),
    )


def _finite_flags(components: dict[str, Scalar]) -> Array:
    values = [components[name] for name in sorted(components)]
    return jnp.isfinite(jnp.stack(values)) if values else jnp.ones((1,), jnp.bool_)


def _first(bad: Array) -> Count:
    """Return the index of the first true entry, -1 if there is none."""
    if bad.shape[0] == 0:
        return jnp.int32(-1)
    return jnp.where(jnp.any(bad), jnp.argmax(bad).astype(jnp.int32), jnp.int32(-1))
