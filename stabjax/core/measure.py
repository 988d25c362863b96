"""The scalars of a step: norms, finiteness, first bad leaf."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stabjax.core.elementwise import saturating_sum
from stabjax.core.sums import SMALL_UNIT, Sums, norm_of, square_in_unit
from stabjax.types import Aux, Count, Flag, Layout, Scalar, StepStats

# A larger norm is scaled in a unit in which it is between 2**63 and 2**94: float32
# holds the reciprocal of that, and a small bound times it.
LARGEST_PLAIN_NORM = 2.0**112
LARGE_UNIT = 2.0**49


def components_of(aux: Aux) -> dict[str, Scalar]:
    """Return the named loss components of ``aux`` in float32."""
    return {
        name: in_float32(value)
        for name, value in sorted(aux.items())
        if name.startswith(("raw/", "weighted/"))
    }


def in_float32(value: Any) -> Scalar:
    """Return a scalar in float32; a finite one beyond its range is its largest number.

    A loss in float64 may be 1e300 and sound.
    """
    value = jnp.asarray(value)
    narrow = value.astype(jnp.float32)
    if jnp.promote_types(value.dtype, jnp.float32) == jnp.float32:
        return narrow
    largest = jnp.float32(jnp.finfo(jnp.float32).max)
    within = jnp.clip(narrow, -largest, largest)
    return jnp.where(jnp.isfinite(value), within, narrow)


def metrics_of(aux: Aux) -> dict[str, Scalar]:
    """Return every other scalar of ``aux`` in float32."""
    components = components_of(aux)
    return {
        name: in_float32(value)
        for name, value in sorted(aux.items())
        if name != "model_state" and name not in components
    }


class Progress(NamedTuple):
    """What a step has to know of the steps before it.

    Attributes:
        step: Attempted steps.
        applied: Applied steps.
        consecutive_refused: Streak of refusals.
        damaged: First leaf of the parameters that was not finite before this step and
            has let none be applied since, or -1.
        update_measured: Whether an update has been measured.
        update_norm: Norm of the last applied update.
        update_ratio: The same over the norm of the parameters.
    """

    step: Count
    applied: Count
    consecutive_refused: Count
    damaged: Count
    update_measured: Flag
    update_norm: Scalar
    update_ratio: Scalar


def step_stats(
    layout: Layout,
    sums: Sums,
    loss: Scalar,
    components: dict[str, Scalar],
    progress: Progress,
    model_state_finite: Flag | bool = True,
    *,
    metrics: dict[str, Scalar] | None = None,
    repaired: Count | int = 0,
    unit: Scalar | None = None,
    moments_finite: Flag | bool = True,
) -> StepStats:
    """Turn the sums of one step into the scalars that guards judge on.

    ``norm = sqrt(sum_i g_i**2)``, in float32.

    Args:
        layout: Names and sizes of the leaves of the gradient.
        sums: What was measured of each leaf.
        loss: Total loss.
        components: From `components_of`.
        progress: Counters before this step.
        model_state_finite: Whether the new model state is finite.
        metrics: From `metrics_of`.
        repaired: How many elements were set to zero before.
        unit: What the gradient was multiplied by; norms are divided by it.
        moments_finite: Whether the optimizer state is finite before the step.

    Returns:
        The statistics: scalars, and one norm per leaf.
    """
    loss = in_float32(loss)
    plain, small, counts = sums
    leaf_finite = jnp.isfinite(plain) | (jnp.isinf(plain) & jnp.isfinite(small))
    total, huge, nonfinite, first_bad = _over_leaves(plain, small, counts, leaf_finite)
    gradient_finite = first_bad < 0
    # The sum over leaves can overflow although no leaf does.
    overflow = gradient_finite & jnp.isinf(total)
    beyond = gradient_finite & (huge > (LARGEST_PLAIN_NORM * SMALL_UNIT) ** 2)
    norm_unit = jnp.where(beyond, jnp.float32(LARGE_UNIT), 1.0)
    in_unit, leaf_norms = norm_of(total, huge, norm_unit), norm_of(plain, small)
    if unit is not None:
        in_unit, leaf_norms = in_unit / unit, leaf_norms / unit
    grad_norm = jnp.minimum(in_unit * norm_unit, jnp.finfo(jnp.float32).max)
    repaired = jnp.asarray(repaired, jnp.int32)
    fine = _finite_flags(components)
    loss_finite = jnp.isfinite(loss)
    state_finite = jnp.asarray(model_state_finite, jnp.bool_)
    moments_finite = jnp.asarray(moments_finite, jnp.bool_)
    finite = loss_finite & jnp.all(fine) & gradient_finite & state_finite
    # What was damaged before is the cause of what is not finite now.
    blamed = ~finite & (progress.damaged >= 0)
    return StepStats(
        loss=loss,
        components=components,
        grad_norm=jnp.where(gradient_finite, grad_norm, np.float32(np.nan)),
        norm_in_unit=jnp.where(gradient_finite, in_unit, np.float32(np.nan)),
        norm_unit=norm_unit,
        leaf_norms=leaf_norms,
        finite=finite & moments_finite,
        loss_finite=loss_finite,
        components_finite=jnp.all(fine),
        gradient_finite=gradient_finite,
        model_state_finite=state_finite,
        overflow=overflow,
        moments_finite=moments_finite,
        damaged_before=blamed | ~moments_finite,
        first_bad_leaf=jnp.where(blamed, progress.damaged, first_bad),
        first_bad_component=_first(~fine),
        update_measured=progress.update_measured,
        update_norm=progress.update_norm,
        update_ratio=progress.update_ratio,
        step=progress.step,
        applied=progress.applied,
        consecutive_refused=progress.consecutive_refused,
        nonfinite_elements=saturating_sum(_whole(nonfinite), repaired),
        repaired=repaired,
        metrics=metrics or {},
        layout=layout,
    )


def _over_leaves(
    plain: Array, small: Array, counts: Array, leaf_finite: Array
) -> tuple[Scalar, Scalar, Scalar, Count]:
    """Reduce over the leaves at once: the sums, and the first bad leaf or -1."""
    leaves = plain.shape[0]
    places = jnp.arange(leaves, dtype=jnp.int32)
    *sums, first = jax.lax.reduce(
        (plain, small, counts, jnp.where(leaf_finite, leaves, places)),
        (*(jnp.float32(0),) * 3, jnp.int32(leaves)),
        lambda x, y: (
            *(a + b for a, b in zip(x[:3], y[:3], strict=True)),
            jnp.minimum(x[3], y[3]),
        ),
        (0,),
    )
    return *sums, jnp.where(first < leaves, first, -1)


def _whole(count: Scalar) -> Count:
    """Return a count as int32; the largest where it is more."""
    fits = count < 2.0**31
    number = jnp.where(fits, count, 0.0).astype(jnp.int32)
    return jnp.where(fits, number, jnp.iinfo(jnp.int32).max)


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
    if sorted(group_of_leaf) == list(range(groups)):
        # Every leaf by itself: the sums would grow with the square of their number.
        order = np.argsort(group_of_leaf)
        if np.array_equal(order, np.arange(groups)):
            return tuple(jnp.unstack(leaf_norms))
        return tuple(jnp.unstack(leaf_norms[order]))
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
