"""The ladder beyond clipping and skipping: roll back, then halt."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards.streak import MAX_SHARE, SHARE_WINDOW, moved_share
from stabjax.types import (
    Count,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)


class EscalateState(NamedTuple):
    """Counters of `escalate`.

    Attributes:
        since: Refusals in a row since the streak or the last rollback [steps].
        rollbacks: Rollbacks asked for.
        share: Share of refusals of late, in [0, 1].
    """

    since: Count
    rollbacks: Count
    share: Scalar


def escalate(
    *,
    roll_back_after: int = 8,
    max_rollbacks: int = 3,
    halt_after: int = 50,
    max_share: float = MAX_SHARE,
    window: int = SHARE_WINDOW,
    reset_moments: bool = False,
) -> Guard:
    """Roll back after a streak of refusals, and halt when that does not help.

    The ladder: other guards clip and skip, `back_off` shrinks the steps; when
    ``roll_back_after`` steps in a row have been refused, this guard returns to the
    last good snapshot, and again after as many more. After ``max_rollbacks``, or
    ``halt_after`` refusals in a row, it halts: nothing is applied any more, and
    the host raises an error that names the step, the component and the first bad
    leaf.

    Beside the recommended guards it brought back none of 523 runs with faults more
    (``python benchmarks/do_no_harm.py faults``): it is for damage that nothing saw.

    Args:
        roll_back_after: Refusals in a row that cause a rollback [steps], >= 1.
        max_rollbacks: Rollbacks before the halt, >= 0.
        halt_after: Refusals in a row that halt in any case [steps], >= 1.
        max_share: Share of refusals among about the last ``window`` steps that counts
            as a streak, in (0, 1]; 1 for none.
        window: Length of that window [steps], >= 1.
        reset_moments: Whether a rollback also starts the moments anew, with the
            counters beside them, for a state that leads to the same place again.

    Returns:
        A guard that needs snapshots unless ``max_rollbacks`` is 0.

    Raises:
        ValueError: If an option is out of range.

    Source:
        Rolling back and skipping data is what PaLM (arXiv:2204.02311, section 5.1)
        did by hand.

    Example:
        >>> escalate(roll_back_after=4).rolls_back
        True
    """
    name = "escalate"
    check.count(name, "roll_back_after", roll_back_after, low=1)
    check.count(name, "max_rollbacks", max_rollbacks)
    check.count(name, "halt_after", halt_after, low=1)

    check.in_range(name, "max_share", max_share, 0.0, 1.0, low_open=True)
    check.count(name, "window", window, low=1)

    def init() -> EscalateState:
        return EscalateState(
            since=jnp.zeros((), jnp.int32),
            rollbacks=jnp.zeros((), jnp.int32),
            share=jnp.zeros((), jnp.float32),
        )

    def judge(state: EscalateState, stats: StepStats) -> tuple[EscalateState, Verdict]:
        streak = stats.consecutive_refused
        since = jnp.where(streak == 0, 0, count_where(state.since, streak > 0))
        due = (since >= roll_back_after) | (state.share >= max_share)
        halt = (due & (state.rollbacks >= max_rollbacks)) | (streak >= halt_after)
        roll_back = due & ~halt
        state = EscalateState(
            since=jnp.where(roll_back, 0, since),
            rollbacks=count_where(state.rollbacks, roll_back),
            share=jnp.where(roll_back, 0.0, state.share),
        )
        return state, verdict(
            roll_back=roll_back,
            halt=halt,
            reset_moments=roll_back if reset_moments else False,
        )

    def learn(
        state: EscalateState, stats: StepStats, outcome: StepOutcome
    ) -> EscalateState:
        del stats
        share = moved_share(state.share, ~outcome.applied, window)
        return state._replace(share=share)

    return Guard(
        name,
        init,
        judge,
        learn,
        rolls_back=max_rollbacks > 0,
        resets_moments=reset_moments,
    )
