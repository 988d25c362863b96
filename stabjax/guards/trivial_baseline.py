"""Watch whether the model beats a predictor that knows nothing."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where, running_mean
from stabjax.guards import check
from stabjax.guards import metric as metrics
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


class TrivialBaselineState(NamedTuple):
    """Running mean of what is compared.

    Attributes:
        seen: Values in the mean [steps].
        mean: Running mean of the loss or metric.
    """

    seen: Count
    mean: Scalar


def trivial_baseline(
    baseline: float,
    *,
    metric: str = "loss",
    mode: Literal["min", "max"] = "min",
    margin: float = 0.01,
    patience: int = 1000,
    decay: float = 0.99,
    action: Literal["alert", "halt"] = "alert",
) -> Guard:
    """Alert when the loss is, after a while, no better than that of a constant.

    From ``patience`` values on: ``mean >= baseline - margin * |baseline|``, mirrored
    for ``"max"``, where the mean is a running one. The trivial loss of a classifier
    is the entropy of its classes, at most ``log(classes)``; of a regression, the
    variance of its target; of a reward, that of the random policy. A network whose
    gradient is cut, whose labels are shuffled or whose outputs have collapsed stays
    right there, with a loss that is smooth and finite.

    Args:
        baseline: What the trivial predictor reaches [metric], finite.
        metric: ``"loss"``, a component, or a metric of the loss.
        mode: ``"min"`` if lower is better, ``"max"`` if higher is.
        margin: Share of ``|baseline|`` by which it must be beaten, >= 0.
        patience: Finite values before it is judged [steps], >= 1.
        decay: Memory of the running mean, in [0, 1); 0.99 is about 100 steps.
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
        >>> import math
        >>> trivial_baseline(baseline=math.log(10), patience=500).reads_loss
        True
    """
    name = "trivial_baseline"
    check.in_range(name, "baseline", baseline, -float("inf"))
    check.one_of(name, "mode", mode, ("min", "max"))
    check.in_range(name, "margin", margin, 0.0)
    check.count(name, "patience", patience, low=1)
    check.in_range(name, "decay", decay, 0.0, 1.0, high_open=True)
    check.one_of(name, "action", action, ("alert", "halt"))
    sign = 1.0 if mode == "min" else -1.0
    needed = baseline - sign * margin * abs(baseline)

    def init() -> TrivialBaselineState:
        return TrivialBaselineState(
            seen=jnp.zeros((), jnp.int32), mean=jnp.zeros((), jnp.float32)
        )

    def judge(
        state: TrivialBaselineState, stats: StepStats
    ) -> tuple[TrivialBaselineState, Verdict]:
        seen = taken(state, stats, stats.finite)
        fresh = jnp.isfinite(metrics.read(name, stats, metric)) & stats.finite
        worse = sign * (seen.mean - needed) >= 0
        trivial = fresh & (seen.seen >= patience) & worse
        return state, verdict(
            halt=trivial if action == "halt" else False,
            alerts=Alert.TRIVIAL.when(trivial),
        )

    def learn(
        state: TrivialBaselineState, stats: StepStats, outcome: StepOutcome
    ) -> TrivialBaselineState:
        return taken(state, stats, outcome.applied)

    def taken(
        state: TrivialBaselineState, stats: StepStats, applied: Flag
    ) -> TrivialBaselineState:
        """Return the state with the value of a step, if that is applied."""
        value = metrics.read(name, stats, metric)
        take = applied & jnp.isfinite(value)
        mean = running_mean(state.mean, value, state.seen, decay, take)
        return TrivialBaselineState(count_where(state.seen, take), mean)

    return Guard(
        name,
        init,
        judge,
        learn,
        subject=metric,
        reads_loss=metric == metrics.LOSS,
    )
