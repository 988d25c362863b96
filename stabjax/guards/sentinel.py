"""Watch for the number that stands for a missing one."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards import metric as metrics
from stabjax.guards.streak import lasting
from stabjax.types import Alert, Count, Guard, StepStats, Verdict, verdict


class SentinelState(NamedTuple):
    """Counters of `sentinel`.

    Attributes:
        streak: Steps in a row with the sentinel [steps].
        total: All steps with the sentinel [steps].
    """

    streak: Count
    total: Count


def sentinel(
    metric: str,
    *,
    value: float = -1.0,
    patience: int = 1,
    action: Literal["alert", "halt"] = "alert",
) -> Guard:
    """Alert when a metric is exactly the number that stands for "not measured".

    Code that has nothing to report often reports -1, 0 or 1e9, and the number goes
    into averages, plateaus and plots as if it were one. NaN needs no guard: it is
    never averaged here, and shows as a gap.

    Args:
        metric: ``"loss"``, a component, or a metric of the loss.
        value: The sentinel. Compared in float32, so that one that went through
            bfloat16 is the number it was rounded to: 998244352 for 1e9.
        patience: Steps in a row that set off the alert [steps], >= 1.
        action: ``"alert"``; ``"halt"`` refuses everything from then on and raises on
            the host.

    Returns:
        A guard that never refuses, unless it halts.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if
            there is no metric of that name.

    Source:
        Own.

    Example:
        >>> sentinel(metric="nearest_distance", value=1e9).name
        'sentinel'
    """
    name = "sentinel"
    check.in_range(name, "value", value, -float("inf"))
    check.count(name, "patience", patience, low=1)
    check.one_of(name, "action", action, ("alert", "halt"))

    def init() -> SentinelState:
        return SentinelState(
            streak=jnp.zeros((), jnp.int32), total=jnp.zeros((), jnp.int32)
        )

    def judge(state: SentinelState, stats: StepStats) -> tuple[SentinelState, Verdict]:
        reading = metrics.read(name, stats, metric)
        missing = reading == jnp.float32(value)
        streak, fires = lasting(state.streak, missing, ~jnp.isnan(reading), patience)
        return SentinelState(streak, count_where(state.total, missing)), verdict(
            halt=fires if action == "halt" else False,
            alerts=Alert.SENTINEL.when(fires),
        )

    return Guard(name, init, judge, subject=metric, reads_loss=metric == metrics.LOSS)
