"""Take smaller steps after a refusal, and warm up again."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.types import (
    Alert,
    Count,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)


class BackOffState(NamedTuple):
    """State of `back_off`.

    Attributes:
        scale: Present factor on the updates, in [min_scale, 1].
        times: Times it was lowered.
    """

    scale: Scalar
    times: Count


def back_off(
    factor: float = 0.5,
    *,
    after: int = 4,
    recovery: int = 10,
    min_scale: float = 0.1,
) -> Guard:
    """Multiply the updates by ``factor`` while refusals go on, then recover to one.

    Whatever refused the steps before this one, a streak of at least ``after``
    lowers the scale once per further refusal: ``max(scale * factor, min_scale)``.
    Each step that follows an accepted one raises it by ``factor**(-1/recovery)``,
    so that one reduction is undone in ``recovery`` steps, and all of them in tens of
    steps. A few refusals are no trouble and lower nothing: `skip_spikes` takes three
    to see that the level has changed. Where a guard takes a lasting
    shift for the new level the scale is one again at once: the trouble was none.

    Beside the recommended guards it brought back none of 523 runs with faults more
    (``python benchmarks/do_no_harm.py faults``).

    Args:
        factor: Multiplier per refusal, in (0, 1).
        after: Length of the streak that triggers it [steps], >= 1.
        recovery: Accepted steps that undo one reduction [steps], >= 1.
        min_scale: Smallest scale, in (0, 1].

    Returns:
        A guard that never refuses.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> back_off(factor=0.5, recovery=50).name
        'back_off'
    """
    name = "back_off"
    check.in_range(name, "factor", factor, 0.0, 1.0, low_open=True, high_open=True)
    check.count(name, "after", after, low=1)
    check.count(name, "recovery", recovery, low=1)
    check.in_range(name, "min_scale", min_scale, 0.0, 1.0, low_open=True)
    growth = factor ** (-1.0 / recovery)

    def init() -> BackOffState:
        return BackOffState(
            scale=jnp.ones((), jnp.float32), times=jnp.zeros((), jnp.int32)
        )

    def judge(state: BackOffState, stats: StepStats) -> tuple[BackOffState, Verdict]:
        streak = stats.consecutive_refused
        lower = streak >= after
        raised = jnp.minimum(state.scale * growth, 1.0)
        scale = jnp.where(streak == 0, raised, state.scale)
        scale = jnp.where(lower, jnp.maximum(state.scale * factor, min_scale), scale)
        state = BackOffState(scale, count_where(state.times, lower))
        return state, verdict(update_scale=scale, alerts=Alert.BACK_OFF.when(lower))

    def learn(
        state: BackOffState, stats: StepStats, outcome: StepOutcome
    ) -> BackOffState:
        del stats
        rebased = (outcome.alerts & jnp.int32(Alert.REBASED.value)) != 0
        return state._replace(scale=jnp.where(rebased, 1.0, state.scale))

    return Guard(name, init, judge, learn)
