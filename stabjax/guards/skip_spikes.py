"""Refuse a step whose loss, gradient norm or last update stands far out."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stabjax.core.running import count_where, running_mean
from stabjax.guards import check
from stabjax.types import (
    Alert,
    Flag,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)

SIGNALS = ("loss", "gradient_norm", "update_norm")
_ALERTS: dict[str, Alert] = dict(
    zip(
        SIGNALS,
        (Alert.LOSS_SPIKE, Alert.GRADIENT_SPIKE, Alert.UPDATE_SPIKE),
        strict=True,
    )
)
# Norms are judged by their logarithm. One at or below this says that nothing was
# measured: no labels, no reward, a rate of zero, a step between two emissions; or the
# squares of its elements have left the range of float32.
_SMALLEST_NORM = 1e-18
# A twentieth of the level: rounding noise on a flat series is never a deviation.
_RELATIVE_FLOOR = 0.05
_ABSOLUTE_FLOOR = 1e-6
# How fast a lasting rise of a norm is followed, as a factor per step.
_APPROACH = 2.0
# During warm-up only a jump by this factor is refused.
_WARMUP_FACTOR = 100.0


class SkipSpikesState(NamedTuple):
    """Running level, spread and reach per signal.

    Attributes:
        seen: Values in the statistics [steps].
        center: Running mean: of the loss, or of the logarithm of a norm.
        spread: Running mean absolute deviation from it.
        reach: The largest of late: distance of a loss from its center, or logarithm of
            a norm.
        streak: Refusals of this signal since it was last normal [steps].
        spikes: All refusals of this signal [steps].
        spent: Refusals of late, each forgotten after about ``window`` steps.
    """

    seen: Int[Array, " signals"]
    center: Float[Array, " signals"]
    spread: Float[Array, " signals"]
    reach: Float[Array, " signals"]
    streak: Int[Array, " signals"]
    spikes: Int[Array, " signals"]
    spent: Scalar


class _Reading(NamedTuple):
    """What a step shows, per signal.

    Attributes:
        values: The signals.
        measured: Whether each is a finite value that says something.
        limit: The largest distance from the center that is accepted.
        over: Whether it is exceeded.
        refused: Whether the step is refused for it.
        lasting: Whether what is over and not refused counts as a new level.
        let_in: The distance at which it is let in then.
    """

    values: Float[Array, " signals"]
    measured: Bool[Array, " signals"]
    limit: Float[Array, " signals"]
    over: Bool[Array, " signals"]
    refused: Bool[Array, " signals"]
    lasting: Flag
    let_in: Float[Array, " signals"]


def skip_spikes(
    signals: Sequence[str] = ("loss", "gradient_norm"),
    *,
    deviations: float = 6.0,
    margin: float = 10.0,
    decay: float = 0.98,
    memory: int = 1000,
    warmup: int = 20,
    rebase_after: int = 3,
    budget: int = 10,
    window: int = 500,
) -> Guard:
    """Refuse a step that stands far above its level and above all it did of late.

    For each signal ``x`` (the loss; the logarithm of a norm) the step is refused if
    ``x > center + deviations * max(spread, floor)`` and, besides, a norm is more than
    ``margin`` times the largest of about the last ``memory`` steps, or a loss is more
    than ``margin`` times as far from its center as in any of these. Center and spread
    are running means of ``x`` and of ``|x - center|``. What a run has survived lately
    is no spike: a restart of the schedule, a return to an earlier task, a heavy tail.

    All are learned from applied steps alone. A norm of exactly zero, a loss of exactly
    zero and a step that is not finite say nothing and are neither judged nor learned.
    A lasting shift of level costs at most ``rebase_after`` refusals; then the steps are
    applied, the gradient scaled down to twice the largest of late, which so follows by
    a factor of two per step. At most about ``budget`` steps of ``window`` are refused;
    with that spent it tells, and scales to the usual norm. During warm-up a
    jump by a factor of 100 is refused already. The update norm is that of the step
    before: the step after a large update is refused.

    Args:
        signals: Any of ``"loss"``, ``"gradient_norm"``, ``"update_norm"``.
        deviations: Allowed distance in mean absolute deviations, in (0, inf).
        margin: How many times the largest of late is still accepted, in [1, inf).
        decay: Memory of level and spread, in [0, 1); 0.98 is about 50 steps.
        memory: Memory of the largest [steps], >= 1.
        warmup: Values to see before the spread is trusted [steps], >= 2.
        rebase_after: Refusals, with no normal step between, before a new level is
            taken [steps], >= 1.
        budget: Refusals in a window before the guard only tells [steps], >= 1.
        window: Length of that window [steps], >= 1.

    Returns:
        The guard.

    Raises:
        ValueError: If an option is out of range.

    Source:
        Own, after SkipStep of OLMo-core, whose window a NaN poisons and whose
        standard deviation rejects rounding noise on a flat series; the largest of late
        as in the rerun machine of Megatron-LM.

    Example:
        >>> skip_spikes(signals=["loss"], deviations=4.0).labels
        ('loss',)
    """
    name = "skip_spikes"
    check.some_of(name, "signals", signals, SIGNALS)
    check.in_range(name, "deviations", deviations, 0.0, low_open=True)
    check.in_range(name, "margin", margin, 1.0)
    check.in_range(name, "decay", decay, 0.0, 1.0, high_open=True)
    check.count(name, "memory", memory, low=1)
    check.count(name, "warmup", warmup, low=2)
    check.count(name, "rebase_after", rebase_after, low=1)
    check.count(name, "budget", budget, low=1)
    check.count(name, "window", window, low=1)
    labels = tuple(signals)
    is_norm = np.asarray([signal != "loss" for signal in labels])

    def init() -> SkipSpikesState:
        shape = (len(labels),)
        return SkipSpikesState(
            seen=jnp.zeros(shape, jnp.int32),
            center=jnp.zeros(shape, jnp.float32),
            spread=jnp.zeros(shape, jnp.float32),
            reach=jnp.zeros(shape, jnp.float32),
            streak=jnp.zeros(shape, jnp.int32),
            spikes=jnp.zeros(shape, jnp.int32),
            spent=jnp.zeros((), jnp.float32),
        )

    def read(state: SkipSpikesState, stats: StepStats) -> _Reading:
        values, measured = _signals(labels, stats)
        limit = _limit(state, is_norm, deviations, margin, warmup)
        over = measured & (state.seen > 0) & (values - state.center > limit)
        # Rounded, since what was spent fades.
        lasting = state.spent < budget - 0.5
        left = lasting
        for index in range(len(labels)):
            # One shift of level may show in all signals, and costs them together.
            left &= state.streak[index] < rebase_after
        # A new level is approached; what only comes too often has the usual size.
        nearer = state.reach - state.center + jnp.float32(np.log(_APPROACH))
        let_in = jnp.where(is_norm, jnp.where(lasting, nearer, 0.0), limit)
        return _Reading(values, measured, limit, over, over & left, lasting, let_in)

    def judge(
        state: SkipSpikesState, stats: StepStats
    ) -> tuple[SkipSpikesState, Verdict]:
        seen = read(state, stats)
        # Scalar by scalar: a reduction would be a kernel of its own on a GPU.
        accept, alerts = jnp.ones((), jnp.bool_), jnp.zeros((), jnp.int32)
        scale = jnp.ones((), jnp.float32)
        for index, signal in enumerate(labels):
            accept &= ~seen.refused[index]
            let_in = seen.over[index] & ~seen.refused[index]
            lasting = let_in & seen.lasting
            alerts |= _ALERTS[signal].when(seen.over[index] & ~lasting)
            alerts |= Alert.REBASED.when(lasting)
            if signal == "gradient_norm":
                excess = seen.values[index] - state.center[index] - seen.let_in[index]
                ratio = jnp.minimum(jnp.exp(-excess) * stats.norm_unit, 1.0)
                scale = jnp.where(let_in, ratio, scale)
        return state, verdict(accept=accept, gradient_scale=scale, alerts=alerts)

    def learn(
        state: SkipSpikesState, stats: StepStats, outcome: StepOutcome
    ) -> SkipSpikesState:
        seen = read(state, stats)
        refused = jnp.zeros((), jnp.bool_)
        for index in range(len(labels)):
            refused |= seen.refused[index]
        normal = seen.measured & outcome.applied & ~seen.over
        return _learned(
            state, seen, is_norm, outcome.applied, decay=decay, memory=memory
        )._replace(
            streak=jnp.where(normal, 0, count_where(state.streak, seen.refused)),
            spikes=count_where(state.spikes, seen.refused),
            spent=state.spent * (1 - 1 / window) + refused.astype(jnp.float32),
        )

    return Guard(name, init, judge, learn, labels=labels, reads_loss="loss" in labels)


def _signals(
    labels: tuple[str, ...], stats: StepStats
) -> tuple[Float[Array, " signals"], Bool[Array, " signals"]]:
    """Return the signals and whether each is a fresh finite value."""
    update = stats.update_is_new & (stats.update_norm > _SMALLEST_NORM)
    readings = {
        "loss": (stats.loss, stats.loss != 0),
        "gradient_norm": (_log(stats.grad_norm), stats.grad_norm > _SMALLEST_NORM),
        "update_norm": (_log(stats.update_norm), update),
    }
    values = jnp.stack([readings[label][0] for label in labels])
    measured = jnp.stack([readings[label][1] for label in labels])
    return values, measured & jnp.isfinite(values) & stats.finite


def _log(norm: Array) -> Array:
    return jnp.log(jnp.maximum(norm, jnp.float32(_SMALLEST_NORM)))


def _limit(
    state: SkipSpikesState,
    is_norm: np.ndarray,
    deviations: float,
    margin: float,
    warmup: int,
) -> Float[Array, " signals"]:
    """Return the largest distance from the center that is still accepted."""
    level = jnp.maximum(jnp.abs(state.center), state.spread)
    loss_floor = jnp.maximum(_RELATIVE_FLOOR * level, _ABSOLUTE_FLOOR)
    floor = jnp.where(is_norm, jnp.float32(_RELATIVE_FLOOR), loss_floor)
    armed = deviations * jnp.maximum(state.spread, floor)
    beyond = jnp.where(
        is_norm,
        state.reach - state.center + jnp.float32(np.log(margin)),
        margin * state.reach,
    )
    armed = jnp.maximum(armed, beyond)
    wide = jnp.where(
        is_norm,
        jnp.float32(np.log(_WARMUP_FACTOR)),
        _WARMUP_FACTOR * jnp.maximum(level, _ABSOLUTE_FLOOR),
    )
    limit = jnp.where(state.seen >= warmup, armed, jnp.maximum(wide, armed))
    return jnp.minimum(limit, jnp.finfo(jnp.float32).max)


def _learned(
    state: SkipSpikesState,
    seen: _Reading,
    is_norm: np.ndarray,
    applied: Array,
    *,
    decay: float,
    memory: int,
) -> SkipSpikesState:
    """Take the values of an applied step into level, spread and reach."""
    take = seen.measured & applied
    first = state.seen == 0
    # What was let in counts as what it was scaled to.
    distance = seen.values - state.center
    distance = jnp.where(seen.over, jnp.minimum(distance, seen.let_in), distance)
    distance = jnp.where(first, seen.values, distance)
    value = state.center + distance
    # The first value is the level, so that its own deviation is zero.
    deviation = jnp.where(first, 0.0, jnp.abs(distance))
    home = jnp.where(is_norm, state.center, 0.0)
    faded = state.reach + (home - state.reach) / memory
    farthest = jnp.where(is_norm, value, deviation)
    reach = jnp.where(first, farthest, jnp.maximum(faded, farthest))
    fine = take & jnp.isfinite(reach)
    return state._replace(
        seen=count_where(state.seen, take),
        center=running_mean(state.center, value, state.seen, decay, take),
        spread=running_mean(state.spread, deviation, state.seen, decay, take),
        reach=jnp.where(fine, reach, state.reach),
    )
