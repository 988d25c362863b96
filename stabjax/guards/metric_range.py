"""Watch whether a metric stays where a healthy run has it."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards import metric as metrics
from stabjax.guards.streak import lasting
from stabjax.types import Alert, Count, Guard, StepStats, Verdict, verdict


class MetricRangeState(NamedTuple):
    """Counters of `metric_range`.

    Attributes:
        seen: Steps in which the metric was measured [steps].
        streak: Steps outside in a row, once it is judged [steps].
    """

    seen: Count
    streak: Count


def metric_range(
    metric: str,
    *,
    low: float | None = None,
    high: float | None = None,
    warmup: int = 0,
    patience: int = 1,
    action: Literal["alert", "halt"] = "alert",
) -> Guard:
    """Alert when a metric stays outside the range of a healthy run.

    ``not low <= metric <= high`` for ``patience`` steps in a row, after ``warmup``
    steps that are not judged. For what is known of a run before it starts: an
    explained variance above 0.5, a success rate, a loss that is below 50 000 or lost.

    Args:
        metric: ``"loss"``, ``"grad_norm"``, a component, or a metric of the loss.
        low: Smallest healthy value; None for no bound.
        high: Largest healthy value; None for no bound.
        warmup: Measured steps before the first that is judged [steps], >= 0.
        patience: Steps outside in a row that set off the alert [steps], >= 1.
        action: ``"alert"``; ``"halt"`` refuses everything from then on and raises on
            the host.

    Returns:
        A guard that never refuses, unless it halts. A metric that is NaN was not
        measured and changes nothing; an infinite one is outside.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if
            there is no metric of that name.

    Source:
        The health ranges of seed 002.

    Example:
        >>> metric_range(metric="explained_variance", low=0.5, warmup=100).name
        'metric_range'
    """
    name = "metric_range"
    infinite = float("inf")
    if low is None and high is None:
        raise ValueError(f"{name}: low or high must be given, got neither.")
    if low is not None:
        check.in_range(name, "low", low, -infinite)
    if high is not None:
        check.in_range(name, "high", high, -infinite if low is None else low)
    check.count(name, "warmup", warmup)
    check.count(name, "patience", patience, low=1)
    check.one_of(name, "action", action, ("alert", "halt"))
    least = -infinite if low is None else low
    most = infinite if high is None else high

    def init() -> MetricRangeState:
        return MetricRangeState(
            seen=jnp.zeros((), jnp.int32), streak=jnp.zeros((), jnp.int32)
        )

    def judge(
        state: MetricRangeState, stats: StepStats
    ) -> tuple[MetricRangeState, Verdict]:
        value = metrics.read(name, stats, metric)
        measured = ~jnp.isnan(value)
        fine = jnp.isfinite(value) & (value >= least) & (value <= most)
        judged = measured & (state.seen >= warmup)
        streak, outside = lasting(state.streak, ~fine, judged, patience)
        state = MetricRangeState(count_where(state.seen, measured), streak)
        return state, verdict(
            halt=outside if action == "halt" else False,
            alerts=Alert.OUT_OF_RANGE.when(outside),
        )

    return Guard(name, init, judge, subject=metric, reads_loss=metric == metrics.LOSS)
