"""Clip the gradient norm where it stands out of its own running distribution."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from stabjax.core.elementwise import unit_of
from stabjax.core.running import count_where, running_mean
from stabjax.guards import check
from stabjax.types import (
    Alert,
    Count,
    Flag,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)

# A deviation by less than a thousandth of the mean is rounding, not a spike.
_RELATIVE_FLOOR = 1e-3
_SMALLEST_RATIO = float(np.finfo(np.float32).tiny)
_DECAY = 0.99


class ZclipState(NamedTuple):
    """Running distribution of the norm.

    Attributes:
        seen: Norms in the statistics [steps].
        mean: Running mean of the clipped norm [gradient].
        deviation: Running standard deviation from it [gradient].
        streak: Clipped steps in a row [steps].
        measured: Applied steps so far [steps].
        clip_fraction: Running share of steps clipped, in [0, 1].
        clip_ratio: Factor of the last step, in (0, 1].
    """

    seen: Count
    mean: Scalar
    deviation: Scalar
    streak: Count
    measured: Count
    clip_fraction: Scalar
    clip_ratio: Scalar


def zclip(
    threshold: float = 2.5,
    *,
    decay: float = 0.97,
    warmup: int = 25,
    rebase_after: int = 20,
) -> Guard:
    """Scale down a gradient whose norm has a high z-score; can slow a healthy run.

    Alone it made 3 of 74 healthy runs end worse: schedule-free AdamW, a change of the
    task, rare classes. Beside the recommended guards it brought back 14 of 523 runs
    with faults more, and 3 fewer (``python benchmarks/do_no_harm.py``).

    With ``z = (norm - mean) / deviation`` and ``z > threshold`` the gradient is
    scaled to the norm ``mean + threshold**2 * deviation / z``: the further out, the
    closer to the mean. The first ``warmup`` norms give mean and variance; then
    ``mean <- decay * mean + (1 - decay) * x`` and ``deviation**2 <- decay *
    deviation**2 + (1 - decay) * (x - mean)**2``, where ``x`` is the clipped norm.

    Because the clipped norm enters, the original never accepts a lasting rise: far
    out, ``x`` is the mean itself. Here the statistics start anew from the present
    norm after ``rebase_after`` clipped steps in a row. A step that is not finite
    enters nothing; the deviation is at least a thousandth of the mean, so that a
    flat series is never clipped; and it is updated as a root of a sum of squares,
    which neither cancels nor overflows. Combine it with `clip_by_global_norm` for
    the absolute bound that the original also has, and for the warm-up, in which
    nothing is clipped.

    Args:
        threshold: Largest z-score [standard deviations], in (0, inf).
        decay: Memory of the statistics, in [0, 1); 0.97 is about 33 steps.
        warmup: Norms before anything is clipped [steps], >= 2.
        rebase_after: Clipped steps in a row before the level is taken as new
            [steps], >= 1.

    Returns:
        A guard that never refuses.

    Raises:
        ValueError: If an option is out of range.

    Source:
        Kumar et al. (2025), ZClip, arXiv:2504.02507; floor and new start are own.

    Example:
        >>> zclip(threshold=3.0).name
        'zclip'
    """
    name = "zclip"
    check.in_range(name, "threshold", threshold, 0.0, low_open=True)
    check.in_range(name, "decay", decay, 0.0, 1.0, high_open=True)
    check.count(name, "warmup", warmup, low=2)
    check.count(name, "rebase_after", rebase_after, low=1)

    def init() -> ZclipState:
        return ZclipState(
            seen=jnp.zeros((), jnp.int32),
            mean=jnp.zeros((), jnp.float32),
            deviation=jnp.zeros((), jnp.float32),
            streak=jnp.zeros((), jnp.int32),
            measured=jnp.zeros((), jnp.int32),
            clip_fraction=jnp.zeros((), jnp.float32),
            clip_ratio=jnp.ones((), jnp.float32),
        )

    def judge(state: ZclipState, stats: StepStats) -> tuple[ZclipState, Verdict]:
        clipped, rebased, bound = read(state, stats)
        # Far out the factor would be flushed to zero, a step that is none.
        ratio = jnp.maximum(
            bound / jnp.maximum(stats.norm_in_unit, bound), jnp.float32(_SMALLEST_RATIO)
        )
        ratio = jnp.where(clipped, ratio, jnp.float32(1.0))
        alerts = Alert.CLIPPED.when(clipped) | Alert.REBASED.when(rebased)
        state = state._replace(clip_ratio=ratio / unit_of(ratio, stats.norm_unit))
        return state, verdict(gradient_scale=ratio, alerts=alerts)

    def read(state: ZclipState, stats: StepStats) -> tuple[Flag, Flag, Scalar]:
        """Return whether to clip, whether to start anew, and the norm to clip to."""
        norm = stats.grad_norm
        bound = _bound(state, norm, threshold)
        over = stats.finite & (state.seen >= warmup) & (norm > bound)
        rebased = over & (state.streak >= rebase_after)
        return over & ~rebased, rebased, bound

    def learn(state: ZclipState, stats: StepStats, outcome: StepOutcome) -> ZclipState:
        norm, applied = stats.grad_norm, outcome.applied
        clipped, rebased, bound = read(state, stats)
        # A norm of zero measured nothing: no labels, no reward, no event.
        take = applied & (norm > 0)
        learned = jnp.where(clipped, bound, norm)
        seen, mean, deviation = _learn(state, learned, take, rebased, decay, warmup)
        share = clipped.astype(jnp.float32)
        streak = jnp.where(clipped, count_where(state.streak, clipped), 0)
        return state._replace(
            seen=seen,
            mean=mean,
            deviation=deviation,
            streak=jnp.where(take, streak, state.streak),
            measured=count_where(state.measured, applied),
            clip_fraction=running_mean(
                state.clip_fraction, share, state.measured, _DECAY, applied
            ),
        )

    return Guard(name, init, judge, learn)


def _bound(state: ZclipState, norm: Scalar, threshold: float) -> Scalar:
    """Return the norm to clip to; where all is fine, one that nothing exceeds."""
    spread = jnp.maximum(state.deviation, _RELATIVE_FLOOR * state.mean)
    excess = norm - state.mean
    # A mean of zero says nothing about the size of a gradient.
    over = (excess > threshold * spread) & (state.mean > 0)
    # In this order no product leaves the range of float32.
    farther = jnp.where(over, excess, jnp.float32(1.0))
    pulled = state.mean + threshold * spread * (threshold * (spread / farther))
    return jnp.where(over, pulled, jnp.finfo(jnp.float32).max)


def _learn(
    state: ZclipState,
    value: Scalar,
    learn: Flag,
    rebased: Flag,
    decay: float,
    warmup: int,
) -> tuple[Count, Scalar, Scalar]:
    """Take a norm into count, mean and deviation; start anew where asked to."""
    seen = jnp.where(rebased, 0, state.seen)
    early = seen < warmup
    weight = jnp.where(early, 1.0 / (seen + 1).astype(jnp.float32), 1.0 - decay)
    distance = value - state.mean
    mean = state.mean + weight * distance
    # With equal weights the variance is about the running mean; later, as published,
    # it takes the distance from the new mean.
    kept = jnp.sqrt(1.0 - weight)
    added = jnp.where(early, jnp.sqrt(weight) * kept, jnp.sqrt(weight) * (1.0 - weight))
    deviation = jnp.hypot(kept * state.deviation, added * distance)
    first = seen == 0
    mean = jnp.where(first, value, mean)
    deviation = jnp.where(first, jnp.float32(0.0), deviation)
    return (
        count_where(seen, learn),
        jnp.where(learn, mean, state.mean),
        jnp.where(learn, deviation, state.deviation),
    )
