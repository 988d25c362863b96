"""Start the moments of the optimizer anew, and warm up again."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from stabjax.guards import check
from stabjax.types import Count, Flag, Guard, Scalar, StepStats, Verdict, verdict

# The first update after a reset, as a share of the full one.
_FIRST_SHARE = 0.01


class ResetMomentsState(NamedTuple):
    """Counters of `reset_moments`.

    Attributes:
        start: Steps applied when the present moments began; -1 right after a reset.
        resets: Times the moments were reset.
        scale: Present factor on the updates, in [0.01, 1].
    """

    start: Count
    resets: Count
    scale: Scalar


def reset_moments(
    every: int | None = None,
    *,
    after_refusals: int | None = None,
    when_damaged: bool = False,
    warmup: int = 0,
) -> Guard:
    """Reset the moments of the optimizer: regularly, after refusals, or when damaged.

    A gradient far out stays in the moments of Adam for hundreds of steps and bends
    every update. The reset comes after the step that sets it off, applied or not,
    and gives the optimizer the state that its ``init`` gives: moments zero, and the
    counters beside them too, so that the bias correction starts anew. A schedule goes
    on: states that only count, and injected hyperparameters, stay as they are.

    After a reset the updates are scaled by ``1 - 0.99 * (1 + cos(pi * t / (warmup +
    1))) / 2`` for the first ``warmup`` steps ``t`` that are applied. For a reset
    after a rollback see `escalate`.

    Args:
        every: Steps applied between two resets [steps], >= 1; None: never.
        after_refusals: Length of a streak of refusals, whatever their cause, that
            sets off one reset [steps], >= 1; None: never.
        when_damaged: Reset a state that is not finite, as a damaged checkpoint leaves
            it. A train step sees that, where parameters are not sharded, in one element
            of some leaves, and refuses such steps; behind `stabjax.guard` and in
            `stabjax.transforms.adamw` and the like nothing looks.
        warmup: Applied steps until the updates are full again [steps], >= 0.

    Returns:
        A guard that never refuses.

    Raises:
        ValueError: If an option is out of range, or nothing sets it off.

    Source:
        Huang et al. (2025), SPAM, arXiv:2501.06842: every 500 steps, warmup 150;
        there the counter of the bias correction is reset as well.

    Example:
        >>> reset_moments(every=500, warmup=150).resets_moments
        True
    """
    name = "reset_moments"
    if every is not None:
        check.count(name, "every", every, low=1)
    if after_refusals is not None:
        check.count(name, "after_refusals", after_refusals, low=1)
    if every is None and after_refusals is None and not when_damaged:
        raise ValueError(
            f"{name}: every or after_refusals must be a whole number >= 1, or "
            "when_damaged True; got None for both."
        )
    check.count(name, "warmup", warmup)

    def init() -> ResetMomentsState:
        return ResetMomentsState(
            start=jnp.zeros((), jnp.int32),
            resets=jnp.zeros((), jnp.int32),
            scale=jnp.ones((), jnp.float32),
        )

    def judge(
        state: ResetMomentsState, stats: StepStats
    ) -> tuple[ResetMomentsState, Verdict]:
        start = jnp.where(state.start < 0, stats.applied, state.start)
        age = stats.applied - start
        due = jnp.zeros((), jnp.bool_)
        if every is not None:
            due |= age + 1 >= every
        if after_refusals is not None:
            # Equal, not more: moments that nothing has moved need no second reset.
            due |= stats.consecutive_refused == after_refusals
        if when_damaged:
            due |= ~stats.moments_finite
        scale = _warmed_up(age, warmup, state.resets > 0)
        state = ResetMomentsState(
            start=jnp.where(due, -1, start).astype(jnp.int32),
            resets=state.resets + due.astype(jnp.int32),
            scale=scale,
        )
        return state, verdict(update_scale=scale, reset_moments=due)

    return Guard(name, init, judge, resets_moments=True)


def _warmed_up(age: Count, warmup: int, was_reset: Flag) -> Scalar:
    """Return the factor on an update ``age`` steps after the moments began."""
    angle = np.float32(np.pi / (warmup + 1)) * age.astype(jnp.float32)
    rising = 1.0 - (1.0 - _FIRST_SHARE) * 0.5 * (1.0 + jnp.cos(angle))
    return jnp.where(was_reset & (age < warmup), rising, jnp.float32(1.0))
