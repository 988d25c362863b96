"""The ladder beyond clipping and skipping: roll back, then halt."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.guards import check
from stabjax.types import Count, Guard, StepStats, Verdict, verdict


class EscalateState(NamedTuple):
    """Counters of `escalate`.

    Attributes:
        since: Refusals in a row since the streak or the last rollback [steps].
        rollbacks: Rollbacks asked for.
    """

    since: Count
    rollbacks: Count


def escalate(
    *,
    roll_back_after: int = 8,
    max_rollbacks: int = 3,
    halt_after: int = 50,
    reset_moments: bool = False,
) -> Guard:
    """Roll back after a streak of refusals, and halt when that does not help.

    The ladder: other guards clip and skip, `back_off` shrinks the steps; when
    ``roll_back_after`` steps in a row have been refused, this guard returns to the
    last good snapshot, and again after as many more. After ``max_rollbacks``, or
    ``halt_after`` refusals in a row, it halts: nothing is applied any more, and
    the host raises an error that names the step, the component and the first bad
    leaf.

    Args:
        roll_back_after: Refusals in a row that cause a rollback [steps], >= 1.
        max_rollbacks: Rollbacks before the halt, >= 0.
        halt_after: Refusals in a row that halt in any case [steps], >= 1.
        reset_moments: Whether a rollback also starts the optimizer anew, counters
            and schedules included, for a state that leads to the same place again.

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

    def init() -> EscalateState:
        return EscalateState(
            since=jnp.zeros((), jnp.int32), rollbacks=jnp.zeros((), jnp.int32)
        )

    def judge(state: EscalateState, stats: StepStats) -> tuple[EscalateState, Verdict]:
        streak = stats.consecutive_refused
        since = jnp.where(streak == 0, 0, state.since + 1)
        due = since >= roll_back_after
        halt = (due & (state.rollbacks >= max_rollbacks)) | (streak >= halt_after)
        roll_back = due & ~halt
        state = EscalateState(
            since=jnp.where(roll_back, 0, since),
            rollbacks=state.rollbacks + roll_back.astype(jnp.int32),
        )
        return state, verdict(
            roll_back=roll_back,
            halt=halt,
            reset_moments=roll_back if reset_moments else False,
        )

    return Guard(
        name,
        init,
        judge,
        rolls_back=max_rollbacks > 0,
        resets_moments=reset_moments,
    )
