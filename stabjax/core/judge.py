"""All guards judge the same scalars, and their verdicts become one decision."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from stabjax.core.elementwise import unit_of
from stabjax.core.headroom import LARGEST_SQUARABLE
from stabjax.core.measure import Progress, group_norms
from stabjax.core.running import count_where
from stabjax.types import (
    MANY_GROUPS,
    Alert,
    Count,
    Flag,
    GroupScale,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)


class Core(NamedTuple):
    """Everything small that a guarded step carries from one call to the next.

    Attributes:
        step: Attempted steps.
        applied: Applied steps.
        refused: Refused steps.
        consecutive_refused: Streak of refusals.
        halted: A guard asked to halt; every later step is refused.
        rollbacks: Times the state returned to a snapshot.
        damaged: First leaf of the parameters that was not finite at the start, or was
            damaged from outside; -1 for none, and once a step was applied all the same.
        update_measured: Whether an update has been measured.
        update_norm: Norm of the last applied update; zero before the first.
        update_ratio: The same over the norm of the parameters.
        guards: One state per guard.
    """

    step: Count
    applied: Count
    refused: Count
    consecutive_refused: Count
    halted: Flag
    rollbacks: Count
    damaged: Count
    update_measured: Flag
    update_norm: Scalar
    update_ratio: Scalar
    guards: tuple[Any, ...]

    def progress(self) -> Progress:
        """Return what `step_stats` needs of it."""
        return Progress(
            self.step,
            self.applied,
            self.consecutive_refused,
            self.damaged,
            self.update_measured,
            self.update_norm,
            self.update_ratio,
        )

    def with_movement(self, norm: Scalar, ratio: Scalar, moved: Flag) -> "Core":
        """Return the core with the last update, if it is a new one.

        After a refusal nothing has moved: the last real update still stands, and has
        been judged already.
        """
        return self._replace(
            update_measured=self.update_measured | moved,
            update_norm=jnp.where(moved, norm, self.update_norm),
            update_ratio=jnp.where(moved, ratio, self.update_ratio),
        )


class Judged(NamedTuple):
    """What all guards say about a step.

    Attributes:
        states: The state of each guard, before it learns from the outcome.
        decision: The combined verdict.
        rings: Bits of `Alert` that each guard raised.
        update_size: As in `StepOutcome`; zero until there is an update.
    """

    states: tuple[Any, ...]
    decision: Verdict
    rings: tuple[Count, ...]
    update_size: Scalar


def init_core(guards: Sequence[Guard]) -> Core:
    """Return the state before the first step, every leaf in a buffer of its own."""
    zero = functools.partial(jnp.zeros, (), jnp.int32)
    return Core(
        step=zero(),
        applied=zero(),
        refused=zero(),
        consecutive_refused=zero(),
        halted=jnp.zeros((), jnp.bool_),
        rollbacks=zero(),
        damaged=jnp.full((), -1, jnp.int32),
        update_measured=jnp.zeros((), jnp.bool_),
        update_norm=jnp.zeros((), jnp.float32),
        update_ratio=jnp.zeros((), jnp.float32),
        guards=tuple(guard.init() for guard in guards),
    )


def combine_verdicts(first: Verdict, second: Verdict) -> Verdict:
    """Combine two verdicts as `Verdict` documents; associative and commutative.

    Example:
        >>> both = combine_verdicts(verdict(gradient_scale=0.5), verdict(accept=False))
        >>> bool(both.accept), float(both.gradient_scale)
        (False, 0.5)
    """
    return Verdict(
        accept=first.accept & second.accept,
        gradient_scale=_smaller(first.gradient_scale, second.gradient_scale),
        update_scale=first.update_scale * second.update_scale,
        largest_update=jnp.minimum(first.largest_update, second.largest_update),
        roll_back=first.roll_back | second.roll_back,
        halt=first.halt | second.halt,
        waive=first.waive | second.waive,
        reset_moments=first.reset_moments | second.reset_moments,
        alerts=first.alerts | second.alerts,
    )


def _smaller(
    first: Scalar | GroupScale, second: Scalar | GroupScale
) -> Scalar | GroupScale:
    """Return the smaller factor for every leaf."""
    if not isinstance(first, GroupScale):
        if isinstance(second, GroupScale):
            return second.at_most(first)
        return jnp.minimum(first, second)
    if not isinstance(second, GroupScale):
        return first.at_most(second)
    return _crossed(first, second)


def _crossed(first: GroupScale, second: GroupScale) -> GroupScale:
    """Split the groups where they cross."""
    pairs = tuple(zip(first.group_of_leaf, second.group_of_leaf, strict=True))
    distinct = sorted(set(pairs), key=pairs.index)
    place = {pair: index for index, pair in enumerate(distinct)}
    left, right = zip(*distinct, strict=True)
    if len(distinct) > MANY_GROUPS:
        ours = jnp.stack(first.factors)[np.array(left)]
        theirs = jnp.stack(second.factors)[np.array(right)]
        factors = jnp.unstack(jnp.minimum(ours, theirs))
    else:
        factors = (
            jnp.minimum(first.factors[i], second.factors[j]) for i, j in distinct
        )
    return GroupScale(tuple(factors), tuple(place[pair] for pair in pairs))


def judge(
    guards: Sequence[Guard], core: Core, stats: StepStats, *, squarable: bool
) -> Judged:
    """Let every guard judge, add the finite contract, and decide.

    A step is accepted if loss, every component and the gradient are finite, every
    guard accepts, none rolls back, and nothing has halted.

    Args:
        guards: The guards, in any order: none sees the verdict of another.
        core: State before the step.
        stats: From `step_stats`.
        squarable: Also refuse a gradient that, after clipping, has a norm above
            2**62: its square would overflow in the state of a second-moment
            optimizer, which then never moves that parameter again.

    Returns:
        The states of the guards, the one verdict, and who rang.
    """
    states, rings, decision = [], [], _finite_contract(stats)
    for guard, state in zip(guards, core.guards, strict=True):
        state, opinion = guard.judge(state, stats)
        states.append(state)
        rings.append(opinion.alerts)
        decision = combine_verdicts(decision, opinion)
    decision = _waived(decision, stats)
    decision = _refuse_too_large(decision, stats, squarable=squarable)
    halt = decision.halt | core.halted
    # What has halted moves no more, not even back.
    back = decision.roll_back & ~halt
    # A halted state is kept as it was found.
    reset = decision.reset_moments & ~halt
    alerts = (
        decision.alerts
        | Alert.HALT.when(halt)
        | Alert.ROLLBACK.when(back)
        | Alert.MOMENTS_RESET.when(reset)
    )
    # A step from which the state returns to a snapshot is not applied as well.
    accept = decision.accept & ~halt & ~back
    decision = decision._replace(
        accept=accept, roll_back=back, halt=halt, reset_moments=reset, alerts=alerts
    )
    size = jnp.zeros((), jnp.float32)
    return Judged(tuple(states), decision, tuple(rings), size)


def bound_update(judged: Judged, guards: Sequence[Guard], size: Scalar) -> Judged:
    """Return what was judged, with the scale that keeps the update within its bound.

    Args:
        judged: From `judge`.
        guards: The guards, of which those that bound updates ring.
        size: Of the update of the inner optimizer; one that is not finite bounds
            nothing.
    """
    decision = judged.decision
    size = size * decision.update_scale
    over = jnp.isfinite(size) & (size > decision.largest_update)
    bound = jnp.where(over, decision.largest_update / jnp.where(over, size, 1.0), 1.0)
    bit = Alert.UPDATE_SPIKE.when(over & decision.accept)
    rings = tuple(
        ring | bit if guard.bounds_updates else ring
        for guard, ring in zip(guards, judged.rings, strict=True)
    )
    decision = decision._replace(
        update_scale=decision.update_scale * bound, alerts=decision.alerts | bit
    )
    size = jnp.where(jnp.isfinite(size), size, 0.0)
    return judged._replace(decision=decision, rings=rings, update_size=size)


def _finite_contract(stats: StepStats) -> Verdict:
    return verdict(
        accept=stats.finite,
        alerts=Alert.NONFINITE_LOSS.when(~stats.loss_finite)
        | Alert.NONFINITE_COMPONENT.when(~stats.components_finite)
        | Alert.NONFINITE_GRADIENT.when(~stats.gradient_finite)
        | Alert.NONFINITE_STATE.when(~stats.model_state_finite)
        | Alert.NORM_OVERFLOW.when(stats.overflow)
        | Alert.DAMAGED_BEFORE.when(stats.damaged_before),
    )


def _waived(decision: Verdict, stats: StepStats) -> Verdict:
    waived = decision.waive & ~stats.finite
    return decision._replace(
        accept=decision.accept | waived,
        alerts=decision.alerts | Alert.ACCEPTED_NONFINITE.when(waived),
    )


def _refuse_too_large(
    decision: Verdict, stats: StepStats, *, squarable: bool
) -> Verdict:
    scale = decision.gradient_scale
    # The norm of all, or of a group, is no smaller than that of any leaf in it.
    # Only a clip of all brings a larger one back, see `elementwise.unit_of`.
    plain = stats.norm_unit == 1.0
    if isinstance(scale, GroupScale):
        norms = group_norms(stats.leaf_norms, scale.group_of_leaf, len(scale.factors))
        if scale.many:
            clipped = jnp.stack(scale.factors) * jnp.stack(norms)
            fine = jnp.all(clipped <= LARGEST_SQUARABLE)
        else:
            pairs = zip(scale.factors, norms, strict=True)
            fits = [factor * norm <= LARGEST_SQUARABLE for factor, norm in pairs]
            fine = functools.reduce(jnp.logical_and, fits)
        fine &= plain
    else:
        norm = stats.norm_in_unit * (stats.norm_unit / unit_of(scale, stats.norm_unit))
        fine = scale * norm <= LARGEST_SQUARABLE
    fine |= decision.waive if squarable else decision.waive | plain
    too_large = stats.gradient_finite & ~fine
    return decision._replace(
        accept=decision.accept & fine,
        alerts=decision.alerts | Alert.GRADIENT_RANGE.when(too_large),
    )


def advance(
    core: Core,
    guards: Sequence[Guard],
    judged: Judged,
    stats: StepStats,
    applied: Flag,
) -> Core:
    """Count the step, and let the guards learn from what became of it.

    Args:
        core: State before the step.
        guards: The guards, in the order of ``judged.states``.
        judged: From `judge`; its alerts are final.
        stats: What was judged.
        applied: Whether the step was in fact applied; not more than accepted.

    Returns:
        The state for the next step.
    """
    decision = judged.decision
    lost = decision.accept & ~applied
    outcome = StepOutcome(applied, lost, decision.alerts, judged.update_size)
    states = [
        state if guard.learn is None else guard.learn(state, stats, outcome)
        for guard, state in zip(guards, judged.states, strict=True)
    ]
    streak = count_where(core.consecutive_refused, ~applied)
    return core._replace(
        step=count_where(core.step, jnp.ones((), jnp.bool_)),
        applied=count_where(core.applied, applied),
        refused=count_where(core.refused, ~applied),
        consecutive_refused=jnp.where(applied, 0, streak),
        halted=decision.halt,
        rollbacks=count_where(core.rollbacks, decision.roll_back),
        # A leaf that is infinite on purpose, or that nothing reads, is to blame for
        # nothing that comes later.
        damaged=jnp.where(applied, -1, core.damaged),
        guards=tuple(states),
    )
