"""Watch a gradient that is exactly zero: what it should train is cut off."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards import metric as metrics
from stabjax.guards.streak import lasting
from stabjax.types import Alert, Count, Guard, StepStats, Verdict, verdict


class DeadGradientState(NamedTuple):
    """Counters of `dead_gradient`.

    Attributes:
        streak: Steps in a row without a gradient [steps].
        total: All steps without one [steps].
    """

    streak: Count
    total: Count


def dead_gradient(
    metric: str,
    *,
    patience: int = 1,
    action: Literal["alert", "halt"] = "alert",
) -> Guard:
    """Alert when a gradient norm that the loss reports is exactly zero.

    A norm from `stabjax.loss_transforms.component_gradient_norms`, such as
    ``gradient/reconstruction/graph``, is zero where the group does not enter the
    component, or only behind a clamp, a rounding, a mask or `jax.lax.stop_gradient`.
    The total gradient is not zero then, the loss falls, and the group is trained by
    penalties and weight decay alone.

    Args:
        metric: Name of the norm among the metrics of the loss.
        patience: Steps in a row that set off the alert [steps], >= 1.
        action: ``"alert"``; ``"halt"`` refuses everything from then on and raises on
            the host.

    Returns:
        A guard that never refuses, unless it halts. A norm that is NaN was not
        measured and changes nothing.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if
            there is no metric of that name.

    Source:
        Seed 001, whose graph had no gradient from the data for a hundred epochs.

    Example:
        >>> dead_gradient(metric="gradient/reconstruction/graph").name
        'dead_gradient'
    """
    name = "dead_gradient"
    check.count(name, "patience", patience, low=1)
    check.one_of(name, "action", action, ("alert", "halt"))

    def init() -> DeadGradientState:
        return DeadGradientState(
            streak=jnp.zeros((), jnp.int32), total=jnp.zeros((), jnp.int32)
        )

    def judge(
        state: DeadGradientState, stats: StepStats
    ) -> tuple[DeadGradientState, Verdict]:
        norm = metrics.read(name, stats, metric)
        dead = norm == 0.0
        streak, fires = lasting(state.streak, dead, ~jnp.isnan(norm), patience)
        return DeadGradientState(streak, count_where(state.total, dead)), verdict(
            halt=fires if action == "halt" else False,
            alerts=Alert.DEAD_GRADIENT.when(fires),
        )

    return Guard(name, init, judge, subject=metric, reads_loss=metric == metrics.LOSS)
