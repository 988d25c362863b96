"""Refuse what is not finite, and decide what happens when it does not stop."""

from typing import Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards.streak import (
    MAX_SHARE,
    ON_EXHAUSTED,
    SHARE_WINDOW,
    OnExhausted,
    moved_share,
    refusal,
)
from stabjax.types import (
    Count,
    Flag,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)


class SkipNonfiniteState(NamedTuple):
    """Counters of `skip_nonfinite`.

    Attributes:
        streak: Consecutive non-finite steps [steps]; optax's ``notfinite_count``.
        total: All non-finite steps [steps]; optax's ``total_notfinite``.
        share: Share of non-finite steps of late, in [0, 1].
    """

    streak: Count
    total: Count
    share: Scalar


def skip_nonfinite(
    max_consecutive: int = 10,
    *,
    max_share: float = MAX_SHARE,
    window: int = SHARE_WINDOW,
    on_exhausted: OnExhausted = "halt",
    compat: Literal["optax"] | None = None,
) -> Guard:
    """Refuse a step with a non-finite loss, component or gradient element.

    Every guarded step refuses those; this guard adds the counters and the end of a
    streak, or of trouble that never forms one, such as every second step. A finite
    gradient whose update or new state is not finite, as Adam's in float16 where its
    epsilon is zero, counts as well; it is known after the step, so that such a streak
    acts at the step behind it. Unlike `optax.apply_if_finite` it looks at the loss and
    its components too, and does not give in: optax accepts the non-finite update after
    ``max_consecutive`` refusals, which fills parameters and moments with NaN.

    Since the steps are refused without it too, it brought back none of 523 runs with
    faults more beside the other recommended guards (``python benchmarks/do_no_harm.py
    faults``); without it nothing ends a run that is lost.

    Args:
        max_consecutive: Length of a streak that exhausts the patience [steps], >= 1;
            with ``compat="optax"`` >= 0, its ``max_consecutive_errors``.
        max_share: Share of non-finite steps among about the last ``window`` that
            exhausts the patience, in (0, 1]; 1 for none. Not with ``"accept"``.
        window: Length of that window [steps], >= 1.
        on_exhausted: ``"halt"`` refuses everything from then on, and
            `stabjax.raise_if_halted` raises; ``"roll_back"`` returns to the last good
            snapshot; ``"accept"`` applies the steps after the streak, as optax does.
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
    check.in_range(name, "max_share", max_share, 0.0, 1.0, low_open=True)
    check.count(name, "window", window, low=1)
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
            streak=jnp.zeros((), jnp.int32),
            total=jnp.zeros((), jnp.int32),
            share=jnp.zeros((), jnp.float32),
        )

    def judge(
        state: SkipNonfiniteState, stats: StepStats
    ) -> tuple[SkipNonfiniteState, Verdict]:
        bad = is_bad(stats)
        streak, halt, roll_back, give_in = refusal(
            state.streak,
            bad,
            # Whether it ends the streak is known when it was applied.
            ends=jnp.zeros((), jnp.bool_),
            max_consecutive=max_consecutive,
            on_exhausted=on_exhausted,
        )
        # Of steps that were lost after they had been accepted.
        late = state.streak >= max_consecutive
        often = bad & (moved_share(state.share, bad, window) >= max_share)
        share = state.share
        if on_exhausted == "halt":
            halt |= late | often
        elif on_exhausted == "roll_back":
            roll_back |= late | often
            streak, share = (jnp.where(roll_back, 0, x) for x in (streak, share))
        else:
            give_in |= late
        state = SkipNonfiniteState(streak, count_where(state.total, bad), share)
        return state, verdict(
            accept=~bad,
            halt=halt,
            roll_back=roll_back,
            waive=~bad | give_in if compat else give_in,
        )

    def learn(
        state: SkipNonfiniteState, stats: StepStats, outcome: StepOutcome
    ) -> SkipNonfiniteState:
        bad = is_bad(stats)
        ended = ~bad & ~outcome.lost
        return SkipNonfiniteState(
            streak=jnp.where(ended, 0, count_where(state.streak, outcome.lost)),
            total=count_where(state.total, outcome.lost),
            share=moved_share(state.share, bad | outcome.lost, window),
        )

    def is_bad(stats: StepStats) -> Flag:
        return ~(stats.gradient_finite if compat else stats.finite)

    return Guard(name, init, judge, learn, rolls_back=on_exhausted == "roll_back")
