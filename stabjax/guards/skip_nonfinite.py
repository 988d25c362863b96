"""Refuse what is not finite, and decide what happens when it does not stop."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.types import Count, Guard, StepStats, Verdict, verdict


class SkipNonfiniteState(NamedTuple):
    """Counters of `skip_nonfinite`.

    Attributes:
        streak: Consecutive non-finite steps [steps].
        total: All non-finite steps [steps].
    """

    streak: Count
    total: Count


def skip_nonfinite(
    *,
    max_consecutive: int = 10,
    on_exhausted: Literal["halt", "roll_back", "accept"] = "halt",
) -> Guard:
    """Refuse a step with a non-finite loss, component or gradient element.

    Every guarded step refuses those; this guard adds the counters and the end of a
    streak. Unlike `optax.apply_if_finite` it looks at the loss and its components
    too, and does not give in: optax accepts the non-finite update after
    ``max_consecutive`` refusals, which fills parameters and moments with NaN.

    Args:
        max_consecutive: Length of a streak that exhausts the patience [steps], >= 1.
        on_exhausted: ``"halt"`` refuses everything from then on and raises on the
            host; ``"roll_back"`` returns to the last good snapshot; ``"accept"``
            applies the steps after the streak, as optax does.

    Returns:
        The guard.

    Raises:
        ValueError: If an option is out of range.

    Example:
        >>> skip_nonfinite(max_consecutive=3).rolls_back
        False
    """
    name = "skip_nonfinite"
    check.count(name, "max_consecutive", max_consecutive, low=1)
    check.one_of(name, "on_exhausted", on_exhausted, ("halt", "roll_back", "accept"))

    def init() -> SkipNonfiniteState:
        return SkipNonfiniteState(
            streak=jnp.zeros((), jnp.int32), total=jnp.zeros((), jnp.int32)
        )

    def judge(
        state: SkipNonfiniteState, stats: StepStats
    ) -> tuple[SkipNonfiniteState, Verdict]:
        bad = ~stats.finite
        streak = jnp.where(bad, count_where(state.streak, bad), 0)
        exhausted = bad & (streak >= max_consecutive)
        if on_exhausted == "roll_back":
            # A new streak starts from the restored state.
            streak = jnp.where(exhausted, 0, streak)
        state = SkipNonfiniteState(streak, count_where(state.total, bad))
        return state, verdict(
            accept=stats.finite,
            halt=exhausted if on_exhausted == "halt" else False,
            roll_back=exhausted if on_exhausted == "roll_back" else False,
            waive=bad & (streak > max_consecutive)
            if on_exhausted == "accept"
            else False,
        )

    return Guard(name, init, judge, rolls_back=on_exhausted == "roll_back")
