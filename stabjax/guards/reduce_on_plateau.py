"""Scale the updates down when the loss has stopped improving."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.guards import metric as metrics
from stabjax.types import (
    Alert,
    Count,
    Flag,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)


class ReduceOnPlateauState(NamedTuple):
    """The state of `torch.optim.lr_scheduler.ReduceLROnPlateau`, on device.

    Attributes:
        scale: Present factor on the updates, in [min_scale, 1].
        averages: Averages so far; before the first there is no best.
        best: Best averaged loss.
        bad: Averages since the last improvement.
        cooldown_left: Averages to go before counting starts again.
        reductions: Times the scale was reduced.
        sum: The unfinished average: finite losses over ``accumulation_size`` [loss].
        in_sum: How many those are [steps].
    """

    scale: Scalar
    averages: Count
    best: Scalar
    bad: Count
    cooldown_left: Count
    reductions: Count
    sum: Scalar
    in_sum: Count


def reduce_on_plateau(
    factor: float = 0.1,
    *,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    mode: Literal["min", "max"] = "min",
    cooldown: int = 0,
    min_scale: float = 0.0,
    min_change: float = 1e-8,
    accumulation_size: int = 100,
    metric: str = "loss",
) -> Guard:
    """Multiply the updates by ``factor`` after ``patience`` averages in vain.

    The semantics are torch's: an average is better if it is below
    ``best - threshold * |best|`` (``"rel"``) or ``best - threshold`` (``"abs"``),
    mirrored for ``"max"``; after more than ``patience`` averages that are not, the
    scale becomes ``max(scale * factor, min_scale)`` and the next ``cooldown``
    averages are not counted. Here ``|best|`` makes it right for negative losses,
    where torch and optax take a worse value for a better one; a step that is not
    finite is left out of the average instead of spoiling it; the statistics are float32
    in whatever dtype the parameters are; and ``patience=0`` means what it says.

    Beside the recommended guards it brought back none of 523 runs with faults more
    (``python benchmarks/do_no_harm.py faults``).

    Args:
        factor: Multiplier of the scale at a reduction, in (0, 1).
        patience: Averages without improvement that are tolerated, >= 0.
        threshold: Improvement that counts, >= 0; a share or a difference.
        threshold_mode: ``"rel"`` or ``"abs"``.
        mode: ``"min"`` if lower is better, ``"max"`` if higher is.
        cooldown: Averages after a reduction that are not counted, >= 0.
        min_scale: Smallest scale, in [0, 1].
        min_change: Reductions smaller than this are not made, >= 0.
        accumulation_size: Applied steps per average [steps], >= 1: as many as lie
            between two evaluations. One is as in optax, where a plateau of a noisy
            loss is ten steps long.
        metric: ``"loss"``, a component such as ``"raw/cross_entropy"``, or any other
            scalar that the loss reports.

    Returns:
        A guard that never refuses.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if
            there is nothing of that name.

    Source:
        torch.optim.lr_scheduler.ReduceLROnPlateau.

    Example:
        >>> reduce_on_plateau(factor=0.5, patience=3).name
        'reduce_on_plateau'
    """
    name = "reduce_on_plateau"
    check.in_range(name, "factor", factor, 0.0, 1.0, low_open=True, high_open=True)
    check.count(name, "patience", patience)
    check.in_range(name, "threshold", threshold, 0.0)
    check.one_of(name, "threshold_mode", threshold_mode, ("rel", "abs"))
    check.one_of(name, "mode", mode, ("min", "max"))
    check.count(name, "cooldown", cooldown)
    check.in_range(name, "min_scale", min_scale, 0.0, 1.0)
    check.in_range(name, "min_change", min_change, 0.0)
    check.count(name, "accumulation_size", accumulation_size, low=1)

    def init() -> ReduceOnPlateauState:
        return ReduceOnPlateauState(
            scale=jnp.ones((), jnp.float32),
            averages=jnp.zeros((), jnp.int32),
            best=jnp.zeros((), jnp.float32),
            bad=jnp.zeros((), jnp.int32),
            cooldown_left=jnp.zeros((), jnp.int32),
            reductions=jnp.zeros((), jnp.int32),
            sum=jnp.zeros((), jnp.float32),
            in_sum=jnp.zeros((), jnp.int32),
        )

    def is_better(average: Scalar, state: ReduceOnPlateauState) -> Flag:
        margin = jnp.float32(threshold)
        if threshold_mode == "rel":
            margin = margin * jnp.abs(state.best)
        if mode == "min":
            better = average < state.best - margin
        else:
            better = average > state.best + margin
        return better | (state.averages == 0)

    def judge(
        state: ReduceOnPlateauState, stats: StepStats
    ) -> tuple[ReduceOnPlateauState, Verdict]:
        seen = taken(state, stats, stats.finite)
        reduced = seen.reductions > state.reductions
        return state, verdict(
            update_scale=seen.scale, alerts=Alert.PLATEAU.when(reduced)
        )

    def learn(
        state: ReduceOnPlateauState, stats: StepStats, outcome: StepOutcome
    ) -> ReduceOnPlateauState:
        return taken(state, stats, outcome.applied)

    def taken(
        state: ReduceOnPlateauState, stats: StepStats, applied: Flag
    ) -> ReduceOnPlateauState:
        """Return the state with the loss of a step, if that is applied."""
        value = metrics.read(name, stats, metric)
        take = applied & jnp.isfinite(value)
        # Divided before it is added, so that no sum of finite losses overflows.
        total = state.sum + jnp.where(take, value / accumulation_size, 0.0)
        in_sum = count_where(state.in_sum, take)
        full = in_sum >= accumulation_size
        waiting = state._replace(sum=total, in_sum=in_sum)
        return jax.tree.map(
            lambda a, w: jnp.where(full, a, w).astype(w.dtype),
            averaged(state, total),
            waiting,
        )

    def averaged(state: ReduceOnPlateauState, average: Scalar) -> ReduceOnPlateauState:
        """Return the state after an average is complete."""
        better = is_better(average, state)
        bad = jnp.where(better | (state.cooldown_left > 0), 0, state.bad + 1)
        due = bad > patience
        lower = jnp.maximum(state.scale * factor, min_scale)
        reduced = due & (state.scale - lower > min_change)
        cooldown_left = jnp.maximum(state.cooldown_left - 1, 0)
        return ReduceOnPlateauState(
            scale=jnp.where(reduced, lower, state.scale),
            averages=count_where(state.averages, jnp.ones((), jnp.bool_)),
            best=jnp.where(better, average, state.best),
            bad=jnp.where(due, 0, bad),
            cooldown_left=jnp.where(due, cooldown, cooldown_left).astype(jnp.int32),
            reductions=count_where(state.reductions, reduced),
            sum=jnp.zeros((), jnp.float32),
            in_sum=jnp.zeros((), jnp.int32),
        )

    return Guard(name, init, judge, learn, subject=metric, reads_loss=True)
