"""Set a few non-finite gradient elements to zero, and say so."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards.streak import ON_EXHAUSTED, OnExhausted, refusal
from stabjax.types import Alert, Count, Guard, StepStats, Verdict, verdict

_MOST = 2**31 - 1


class RepairNonfiniteState(NamedTuple):
    """Counters of `repair_nonfinite`.

    Attributes:
        streak: Steps in a row with an element repaired [steps].
        steps: All steps with an element repaired [steps].
        elements: All elements repaired; stops at the largest int32.
    """

    streak: Count
    steps: Count
    elements: Count


def repair_nonfinite(
    *,
    max_share: float = 1e-3,
    max_consecutive: int = 10,
    on_exhausted: OnExhausted = "halt",
) -> Guard:
    """Train on a gradient whose few NaN and infinite elements were set to zero.

    ``g_i <- 0 where g_i is not finite``, before anything is measured: the other
    guards judge, and the optimizer sees, what is left. A `nan_to_num` that tells:
    each repaired step has an alert and its count in the telemetry; one with more
    than ``max_share`` of all elements broken is refused; and a streak is bounded,
    because a gradient that is always broken somewhere trains a part of the network
    never. Infinite elements are broken too, which `optax.zero_nans` lets pass. A
    non-finite loss is not repaired.

    Prefer refusing (`skip_nonfinite`) where batches are many: a zero is a wrong
    gradient, and the moments of its parameter decay.

    Beside the recommended guards it brought back none of 523 runs with faults more
    (``python benchmarks/do_no_harm.py faults``).

    Args:
        max_share: Largest share of all gradient elements that is repaired and not
            refused, in [0, 1].
        max_consecutive: Repaired or refused steps in a row that exhaust the patience
            [steps], >= 1.
        on_exhausted: ``"halt"`` refuses everything from then on and raises on the
            host; ``"roll_back"`` returns to the last good snapshot; ``"accept"``
            goes on repairing, and refusing what is above ``max_share``.

    Returns:
        The guard.

    Raises:
        ValueError: If an option is out of range.

    Source:
        After `optax.zero_nans`.

    Example:
        >>> repair_nonfinite(max_share=0.01).repairs
        True
    """
    name = "repair_nonfinite"
    check.in_range(name, "max_share", max_share, 0.0, 1.0)
    check.count(name, "max_consecutive", max_consecutive, low=1)
    check.one_of(name, "on_exhausted", on_exhausted, ON_EXHAUSTED)

    def init() -> RepairNonfiniteState:
        return RepairNonfiniteState(
            streak=jnp.zeros((), jnp.int32),
            steps=jnp.zeros((), jnp.int32),
            elements=jnp.zeros((), jnp.int32),
        )

    def judge(
        state: RepairNonfiniteState, stats: StepStats
    ) -> tuple[RepairNonfiniteState, Verdict]:
        # A share of 0.29 of 100 elements is 29, not the 28.999 of its product.
        most = min(int(max_share * sum(stats.layout.sizes) + 1e-6), _MOST)
        broken = stats.repaired > 0
        streak, halt, roll_back, _ = refusal(
            state.streak,
            broken,
            ends=~broken,
            max_consecutive=max_consecutive,
            on_exhausted=on_exhausted,
        )
        room = jnp.int32(_MOST) - state.elements
        state = RepairNonfiniteState(
            streak=streak,
            steps=count_where(state.steps, broken),
            elements=state.elements + jnp.minimum(stats.repaired, room),
        )
        return state, verdict(
            accept=stats.repaired <= most,
            halt=halt,
            roll_back=roll_back,
            alerts=Alert.REPAIRED.when(broken),
        )

    return Guard(
        name, init, judge, rolls_back=on_exhausted == "roll_back", repairs=True
    )
