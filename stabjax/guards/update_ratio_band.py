"""Watch the size of the update relative to the parameters."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.guards import check
from stabjax.guards.streak import lasting
from stabjax.types import Alert, Count, Flag, Guard, Scalar, StepStats, Verdict, verdict

Action = Literal["alert", "scale", "halt"]


class UpdateRatioBandState(NamedTuple):
    """Counters of `update_ratio_band`.

    Attributes:
        above: Updates in a row above the band [steps].
        below: Updates in a row below the band [steps].
        scale: Present factor on the updates, in [min_scale, 1].
    """

    above: Count
    below: Count
    scale: Scalar


def update_ratio_band(
    *,
    low: float = 1e-5,
    high: float = 1e-1,
    patience: int = 10,
    action: Action = "alert",
    min_scale: float = 1e-3,
    recovery: int = 100,
) -> Guard:
    """Alert when ``norm(update) / norm(parameters)`` leaves the band for long.

    Healthy training moves its parameters by about a thousandth per step. Far more
    tends to come before a spike of the loss; far less means that nothing is learned.
    The ratio is that of the last applied update: it is known one step late, and
    judged once. A train step measures it; behind `stabjax.transforms.guard`, for
    sharded parameters, or with ``sample_updates=False`` nothing is measured or fires.

    With ``action="scale"`` an update above the band multiplies the scale of those to
    come by ``high / ratio`` once the patience is exhausted; while the ratio is in
    the band the scale doubles every ``recovery`` steps, up to one. An update that is
    too small is only reported.

    Args:
        low: Lower end of the band [dimensionless], in [0, inf).
        high: Upper end of the band [dimensionless], in (low, inf).
        patience: Updates in a row on one side that set off the alert [steps], >= 1.
        action: ``"alert"``; ``"scale"`` also makes updates smaller; ``"halt"``
            refuses everything from then on and raises on the host.
        min_scale: Smallest scale, in (0, 1].
        recovery: Updates in the band that double the scale [steps], >= 1.

    Returns:
        A guard that never refuses, unless it halts.

    Raises:
        ValueError: If an option is out of range.

    Source:
        The band of TheDeepChecker (Ben Braiek & Khomh 2022, arXiv:2204.00694) is
        1e-4 to 1e-1; low is lower here for the end of a learning-rate schedule.

    Example:
        >>> update_ratio_band(high=0.03, action="scale").name
        'update_ratio_band'
    """
    name = "update_ratio_band"
    check.in_range(name, "low", low, 0.0)
    check.in_range(name, "high", high, low, low_open=True)
    check.count(name, "patience", patience, low=1)
    check.one_of(name, "action", action, ("alert", "scale", "halt"))
    check.in_range(name, "min_scale", min_scale, 0.0, 1.0, low_open=True)
    check.count(name, "recovery", recovery, low=1)
    growth = 2.0 ** (1.0 / recovery)

    def init() -> UpdateRatioBandState:
        return UpdateRatioBandState(
            above=jnp.zeros((), jnp.int32),
            below=jnp.zeros((), jnp.int32),
            scale=jnp.ones((), jnp.float32),
        )

    def rescaled(scale: Scalar, ratio: Scalar, too_large: Flag, calm: Flag) -> Scalar:
        lower = jnp.maximum(scale * (high / jnp.maximum(ratio, high)), min_scale)
        raised = jnp.minimum(scale * growth, 1.0)
        return jnp.where(too_large, lower, jnp.where(calm, raised, scale))

    def judge(
        state: UpdateRatioBandState, stats: StepStats
    ) -> tuple[UpdateRatioBandState, Verdict]:
        ratio = stats.update_ratio
        fresh = stats.update_is_new & jnp.isfinite(ratio)
        above, too_large = lasting(state.above, ratio > high, fresh, patience)
        below, too_small = lasting(state.below, ratio < low, fresh, patience)
        scale = state.scale
        if action == "scale":
            calm = fresh & (ratio <= high) & (ratio >= low)
            scale = rescaled(scale, ratio, too_large, calm)
        outside = too_large | too_small
        state = UpdateRatioBandState(above, below, scale)
        return state, verdict(
            update_scale=scale,
            halt=outside if action == "halt" else False,
            alerts=Alert.UPDATE_RATIO.when(outside),
        )

    return Guard(name, init, judge)
