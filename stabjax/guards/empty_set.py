"""Refuse a step whose loss is a mean over nothing."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards import metric as metrics
from stabjax.guards.streak import ON_EXHAUSTED, OnExhausted, refusal
from stabjax.types import Alert, Count, Guard, StepStats, Verdict, verdict


class EmptySetState(NamedTuple):
    """Counters of `empty_set`.

    Attributes:
        streak: Empty steps in a row [steps].
        total: All empty steps [steps].
    """

    streak: Count
    total: Count


def empty_set(
    metric: str,
    *,
    min_count: float = 1.0,
    max_consecutive: int = 10,
    on_exhausted: OnExhausted = "halt",
) -> Guard:
    """Refuse a step in which fewer than ``min_count`` elements were selected.

    A masked mean over no valid element is zero over zero, or, made safe, a zero that
    looks like a perfect loss. The count is a metric that the loss reports: valid
    tokens, accepted proposals, positive pairs. A step without them has nothing to
    learn from, but would still move momentum, weight decay and running statistics.

    Args:
        metric: Name of the count among the metrics of the loss.
        min_count: Smallest count that is enough, in (0, inf).
        max_consecutive: Length of a streak that exhausts the patience [steps], >= 1.
        on_exhausted: ``"halt"`` refuses everything from then on and raises on the
            host; ``"roll_back"`` returns to the last good snapshot; ``"accept"``
            lets the rest of the streak pass.

    Returns:
        The guard. A count that is NaN was not measured and changes nothing.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if
            there is no metric of that name.

    Source:
        Own.

    Example:
        >>> empty_set(metric="valid_tokens", min_count=16.0).name
        'empty_set'
    """
    name = "empty_set"
    check.in_range(name, "min_count", min_count, 0.0, low_open=True)
    check.count(name, "max_consecutive", max_consecutive, low=1)
    check.one_of(name, "on_exhausted", on_exhausted, ON_EXHAUSTED)

    def init() -> EmptySetState:
        return EmptySetState(
            streak=jnp.zeros((), jnp.int32), total=jnp.zeros((), jnp.int32)
        )

    def judge(state: EmptySetState, stats: StepStats) -> tuple[EmptySetState, Verdict]:
        count = metrics.read(name, stats, metric)
        empty = count < min_count
        streak, halt, roll_back, give_in = refusal(
            state.streak,
            empty,
            ends=count >= min_count,
            max_consecutive=max_consecutive,
            on_exhausted=on_exhausted,
        )
        return EmptySetState(streak, count_where(state.total, empty)), verdict(
            accept=~empty | give_in,
            halt=halt,
            roll_back=roll_back,
            alerts=Alert.EMPTY.when(empty),
        )

    return Guard(
        name,
        init,
        judge,
        subject=metric,
        rolls_back=on_exhausted == "roll_back",
        reads_loss=metric == metrics.LOSS,
    )
