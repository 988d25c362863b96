"""Refuse what is not finite, and decide what happens when it does not stop."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards.streak import ON_EXHAUSTED, OnExhausted, refusal
from stabjax.types import Count, Guard, StepStats, Verdict, verdict


class SkipNonfiniteState(NamedTuple):
    """Counters of `skip_nonfinite`.

    Attributes:
        streak: Consecutive non-finite steps [steps]; optax's ``notfinite_count``.
        total: All non-finite steps [steps]; optax's ``total_notfinite``.
    """

    streak: Count
    total: Count


def skip_nonfinite(
    max_consecutive: int = 10,
    *,
    on_exhausted: OnExhausted = "halt",
    compat: Literal["optax"] | None = None,
) -> Guard:
    """Refuse a step with a non-finite loss, component or gradient element.

    Every guarded step refuses those; this guard adds the counters and the end of a
    streak. Unlike `optax.apply_if_finite` it looks at the loss and its components
    too, and does not give in: optax accepts the non-finite update after
    ``max_consecutive`` refusals, which fills parameters and moments with NaN.

    Args:
        max_consecutive: Length of a streak that exhausts the patience [steps], >= 1;
            with ``compat="optax"`` >= 0, its ``max_consecutive_errors``.
        on_exhausted: ``"halt"`` refuses everything from then on and raises on the
            host; ``"roll_back"`` returns to the last good snapshot; ``"accept"``
            applies the steps after the streak, as optax does.
        compat: ``"optax"`` does what `optax.apply_if_finite` does, step for step, to
            move a run over unchanged: only the gradient is looked at, it always
            gives in, and the finite contract is waived for the loss, the update and
            the optimizer state. ``on_exhausted`` then has no say.

    Returns:
        The guard.

    Raises:
        ValueError: If an option is out of range, or ``compat="optax"`` is asked to
            roll back.

    Example:
        >>> skip_nonfinite(max_consecutive=3).rolls_back
        False
    """
    name = "skip_nonfinite"
    check.count(name, "max_consecutive", max_consecutive, low=0 if compat else 1)
    check.one_of(name, "on_exhausted", on_exhausted, ON_EXHAUSTED)
    if compat is not None:
        check.one_of(name, "compat", compat, ("optax",))
        if on_exhausted == "roll_back":
            raise ValueError(
                f"{name}: on_exhausted must be 'accept' with compat='optax', "
                f"got {on_exhausted!r}."
            )
        on_exhausted = "accept"

    def init() -> SkipNonfiniteState:
        return SkipNonfiniteState(
            streak=jnp.zeros((), jnp.int32), total=jnp.zeros((), jnp.int32)
        )

    def judge(
        state: SkipNonfiniteState, stats: StepStats
    ) -> tuple[SkipNonfiniteState, Verdict]:
        fine = stats.gradient_finite if compat else stats.finite
        streak, halt, roll_back, give_in = refusal(
            state.streak,
            ~fine,
            ends=fine,
            max_consecutive=max_consecutive,
            on_exhausted=on_exhausted,
        )
        state = SkipNonfiniteState(streak, count_where(state.total, ~fine))
        return state, verdict(
            accept=fine,
            halt=halt,
            roll_back=roll_back,
            waive=fine | give_in if compat else give_in,
        )

    return Guard(name, init, judge, rolls_back=on_exhausted == "roll_back")
