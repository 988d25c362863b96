"""Watch the share of outputs that sit at a bound."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.guards import check
from stabjax.guards import metric as metrics
from stabjax.guards.streak import lasting
from stabjax.types import Alert, Count, Guard, StepStats, Verdict, verdict


class SaturationState(NamedTuple):
    """Counters of `saturation`.

    Attributes:
        streak: Steps in a row with too large a share [steps].
    """

    streak: Count


def saturation(
    metric: str,
    *,
    max_share: float = 0.5,
    patience: int = 10,
    action: Literal["alert", "halt"] = "alert",
) -> Guard:
    """Alert when too large a share of a quantity stays at its bound.

    ``share > max_share`` for ``patience`` steps in a row. The share is a metric that
    the loss reports: of outputs at the bound of a clamp, of units whose activation
    has derivative zero, of ratios outside of a clipping range. No gradient passes
    there, while the loss looks calm.

    Args:
        metric: Name of the share among the metrics of the loss.
        max_share: Largest share that is fine, in [0, 1).
        patience: Steps in a row that set off the alert [steps], >= 1.
        action: ``"alert"``; ``"halt"`` refuses everything from then on and raises on
            the host.

    Returns:
        A guard that never refuses, unless it halts. A share that is NaN was not
        measured and changes nothing.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if
            there is no metric of that name.

    Source:
        Dead and saturated units among the rules of TheDeepChecker (Ben Braiek &
        Khomh 2022, arXiv:2204.00694).

    Example:
        >>> saturation(metric="share_clipped", max_share=0.9).reads_loss
        False
    """
    name = "saturation"
    check.in_range(name, "max_share", max_share, 0.0, 1.0, high_open=True)
    check.count(name, "patience", patience, low=1)
    check.one_of(name, "action", action, ("alert", "halt"))

    def init() -> SaturationState:
        return SaturationState(streak=jnp.zeros((), jnp.int32))

    def judge(
        state: SaturationState, stats: StepStats
    ) -> tuple[SaturationState, Verdict]:
        share = metrics.read(name, stats, metric)
        streak, saturated = lasting(
            state.streak, share > max_share, jnp.isfinite(share), patience
        )
        return SaturationState(streak), verdict(
            halt=saturated if action == "halt" else False,
            alerts=Alert.SATURATED.when(saturated),
        )

    return Guard(name, init, judge, subject=metric, reads_loss=metric == metrics.LOSS)
