"""Refuse a step whose gradient norm is above an absolute limit."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards.streak import ON_EXHAUSTED, OnExhausted, refusal
from stabjax.types import Alert, Count, Guard, Scalar, StepStats, Verdict, verdict


class SkipLargeState(NamedTuple):
    """Counters of `skip_large`.

    Attributes:
        streak: Steps above the limit in a row [steps].
        total: All steps above the limit [steps].
    """

    streak: Count
    total: Count


def skip_large(
    max_norm: float | Scalar,
    *,
    max_consecutive: int = 10,
    on_exhausted: OnExhausted = "halt",
) -> Guard:
    """Refuse a step whose global gradient norm is above ``max_norm``.

    An absolute limit knows no new level: a gradient that stays above it would be
    refused for ever, which is why the streak is bounded. For a limit that follows
    the level take `skip_spikes`; to make such steps smaller, `clip_by_global_norm`.

    `optax.skip_large_updates`, which only `optax.MultiSteps` calls, takes the
    *squared* norm, ``max_squared_norm = max_norm**2``, refuses equality too, never
    stops refusing, and refuses every gradient whose sum of squares overflows.

    Args:
        max_norm: Largest norm that is accepted [gradient], in (0, inf).
        max_consecutive: Length of a streak that exhausts the patience [steps], >= 1.
        on_exhausted: ``"halt"`` refuses everything from then on and raises on the
            host; ``"roll_back"`` returns to the last good snapshot; ``"accept"``
            lets the rest of the streak pass as the new level.

    Returns:
        The guard.

    Raises:
        ValueError: If an option is out of range.

    Source:
        After `optax.skip_large_updates`.

    Example:
        >>> skip_large(max_norm=100.0, on_exhausted="roll_back").rolls_back
        True
    """
    name = "skip_large"
    max_norm, valid = check.positive(name, "max_norm", max_norm)
    check.count(name, "max_consecutive", max_consecutive, low=1)
    check.one_of(name, "on_exhausted", on_exhausted, ON_EXHAUSTED)

    def init() -> SkipLargeState:
        return SkipLargeState(
            streak=jnp.zeros((), jnp.int32), total=jnp.zeros((), jnp.int32)
        )

    def judge(
        state: SkipLargeState, stats: StepStats
    ) -> tuple[SkipLargeState, Verdict]:
        # What is not finite is neither: the finite contract refuses it.
        large = jnp.isfinite(stats.grad_norm) & (stats.grad_norm > max_norm)
        streak, halt, roll_back, give_in = refusal(
            state.streak,
            large,
            ends=stats.grad_norm <= max_norm,
            max_consecutive=max_consecutive,
            on_exhausted=on_exhausted,
        )
        state = SkipLargeState(streak, count_where(state.total, large))
        refused = large & ~give_in
        alerts = Alert.GRADIENT_SPIKE.when(refused) | Alert.REBASED.when(give_in)
        return state, verdict(
            accept=valid & ~refused, halt=halt, roll_back=roll_back, alerts=alerts
        )

    return Guard(name, init, judge, rolls_back=on_exhausted == "roll_back")
