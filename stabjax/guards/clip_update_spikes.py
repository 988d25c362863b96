"""Scale down an update that is far larger than all of late."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.types import (
    LARGEST,
    Count,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)

# Below it nothing has moved that counts.
_SMALLEST = 1e-18


class ClipUpdateSpikesState(NamedTuple):
    """What updates were like of late.

    Attributes:
        seen: Updates that moved something [steps].
        largest: The largest of late [parameter].
        clipped: Updates scaled down [steps].
    """

    seen: Count
    largest: Scalar
    clipped: Count


def clip_update_spikes(
    margin: float = 3.0,
    *,
    growth: float = 1.25,
    memory: int = 1000,
    warmup: int = 20,
) -> Guard:
    """Scale an update down to ``margin`` times the largest of late.

    A clip bounds the gradient, and Adam divides by its size: what a gradient of
    ordinary norm does after the second moments were lost, or under a learning rate that
    is wrong for five steps, no clip sees. Here the update itself is bounded, before it
    is applied: ``update *= min(1, margin * largest / size)``. Its size is the root mean
    square of what moves, in a train step of about two thousand elements, for which the
    optimizer runs on these alone.

    ``largest`` follows updates that were applied: down by one part in ``memory`` per
    step, up by the factor ``growth`` at most. So a lasting rise, such as a restart of
    the schedule, is followed by a factor of ten in about ten steps, and meanwhile the
    updates are ``margin`` times what they were. An update of zero says nothing.

    Updates of sharded parameters in a train step, and those of
    `stabjax.transforms.adamw` and its siblings, are not measured in time, nor what
    `stabjax.transforms.accumulate` is given, which is no update: there it does nothing.

    Args:
        margin: How many times the largest of late is accepted, in [1, inf).
        growth: How fast a lasting rise is followed, a factor per step, in (1, inf).
        memory: Memory of the largest [steps], >= 1.
        warmup: Updates before anything is scaled [steps], >= 1.

    Returns:
        A guard that never refuses.

    Raises:
        ValueError: If an option is out of range.

    Source:
        Own. Adafactor (Shazeer and Stern 2018) and StableAdamW (Wortsman et al. 2023)
        bound the root mean square of an update by a constant, leaf by leaf, before the
        learning rate.

    Example:
        >>> clip_update_spikes(margin=5.0).bounds_updates
        True
    """
    name = "clip_update_spikes"
    check.in_range(name, "margin", margin, 1.0)
    check.in_range(name, "growth", growth, 1.0, low_open=True)
    check.count(name, "memory", memory, low=1)
    check.count(name, "warmup", warmup, low=1)

    def init() -> ClipUpdateSpikesState:
        return ClipUpdateSpikesState(
            seen=jnp.zeros((), jnp.int32),
            largest=jnp.zeros((), jnp.float32),
            clipped=jnp.zeros((), jnp.int32),
        )

    def bound(state: ClipUpdateSpikesState) -> Scalar:
        limit = jnp.minimum(margin * state.largest, LARGEST)
        return jnp.where(state.seen >= warmup, limit, LARGEST)

    def judge(
        state: ClipUpdateSpikesState, stats: StepStats
    ) -> tuple[ClipUpdateSpikesState, Verdict]:
        del stats
        return state, verdict(largest_update=bound(state))

    def learn(
        state: ClipUpdateSpikesState, stats: StepStats, outcome: StepOutcome
    ) -> ClipUpdateSpikesState:
        del stats
        size, limit = outcome.update_size, bound(state)
        take = outcome.applied & (size > _SMALLEST)
        # During warm-up it follows at once.
        most = jnp.where(state.seen >= warmup, growth * state.largest, LARGEST)
        faded = state.largest * (1.0 - 1.0 / memory)
        largest = jnp.maximum(faded, jnp.minimum(size, most))
        return ClipUpdateSpikesState(
            seen=count_where(state.seen, take),
            largest=jnp.where(take, largest, state.largest),
            clipped=count_where(state.clipped, take & (size > limit)),
        )

    return Guard(name, init, judge, learn, bounds_updates=True)
