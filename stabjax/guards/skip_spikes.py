"""Refuse a step whose loss, gradient norm or last update stands far out."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stabjax.core.running import count_where, running_mean
from stabjax.guards import check
from stabjax.types import Alert, Guard, StepStats, Verdict, verdict

SIGNALS = ("loss", "gradient_norm", "update_norm")
_ALERTS: dict[str, Alert] = dict(
    zip(
        SIGNALS,
        (Alert.LOSS_SPIKE, Alert.GRADIENT_SPIKE, Alert.UPDATE_SPIKE),
        strict=True,
    )
)
# Norms are judged by their logarithm. Below this one they are all alike: the
# squares of their elements leave the range of float32, and the norm measures zero.
_SMALLEST_NORM = 1e-18
# A twentieth of the level: rounding noise on a flat series is never a deviation.
_RELATIVE_FLOOR = 0.05
_ABSOLUTE_FLOOR = 1e-6
# During warm-up only a jump by this factor is refused.
_WARMUP_FACTOR = 100.0


class SkipSpikesState(NamedTuple):
    """Running level and spread per signal.

    Attributes:
        seen: Values in the statistics [steps].
        center: Running mean: of the loss, or of the logarithm of a norm.
        spread: Running mean absolute deviation from it.
        streak: Refusals of this signal since it was last learned [steps].
        spikes: All refusals of this signal [steps].
    """

    seen: Int[Array, " signals"]
    center: Float[Array, " signals"]
    spread: Float[Array, " signals"]
    streak: Int[Array, " signals"]
    spikes: Int[Array, " signals"]


def skip_spikes(
    signals: Sequence[str] = SIGNALS,
    *,
    deviations: float = 6.0,
    decay: float = 0.98,
    warmup: int = 20,
    rebase_after: int = 20,
) -> Guard:
    """Refuse a step that stands more than ``deviations`` spreads above its level.

    For each signal ``x`` (the loss; the logarithm of a norm) the step is refused if
    ``x > center + deviations * max(spread, floor)``, where center and spread are
    running means of ``x`` and of ``|x - center|`` over accepted steps.

    A step that is not finite or that this guard refuses never enters the statistics
    of any signal. A lasting shift of level is accepted at the latest after
    ``rebase_after`` refusals: the statistics then start anew from there. A flat
    series never trips, because the floor is a twentieth of its level. During warm-up
    a jump by a factor of 100 is refused already. The update norm is that of the step
    before, a signal that often leads the loss; the step after such an update is
    refused once, which is the moment for `back_off` to act.

    Args:
        signals: Any of ``"loss"``, ``"gradient_norm"``, ``"update_norm"``.
        deviations: Allowed distance in mean absolute deviations, in (0, inf).
        decay: Memory of the statistics, in [0, 1); 0.98 is about 50 steps.
        warmup: Values to see before the spread is trusted [steps], >= 2.
        rebase_after: Refusals for one signal, with no accepted step between,
            before its new level is taken [steps], >= 1.

    Returns:
        The guard.

    Raises:
        ValueError: If an option is out of range.

    Source:
        Own, after SkipStep of OLMo-core, whose window a NaN poisons and whose
        standard deviation rejects rounding noise on a flat series.

    Example:
        >>> skip_spikes(signals=["loss"], deviations=4.0).labels
        ('loss',)
    """
    name = "skip_spikes"
    check.some_of(name, "signals", signals, SIGNALS)
    check.in_range(name, "deviations", deviations, 0.0, low_open=True)
    check.in_range(name, "decay", decay, 0.0, 1.0, high_open=True)
    check.count(name, "warmup", warmup, low=2)
    check.count(name, "rebase_after", rebase_after, low=1)
    labels = tuple(signals)
    is_norm = np.asarray([signal != "loss" for signal in labels])

    def init() -> SkipSpikesState:
        shape = (len(labels),)
        return SkipSpikesState(
            seen=jnp.zeros(shape, jnp.int32),
            center=jnp.zeros(shape, jnp.float32),
            spread=jnp.zeros(shape, jnp.float32),
            streak=jnp.zeros(shape, jnp.int32),
            spikes=jnp.zeros(shape, jnp.int32),
        )

    def judge(
        state: SkipSpikesState, stats: StepStats
    ) -> tuple[SkipSpikesState, Verdict]:
        values, measured = _signals(labels, stats)
        distance = values - state.center
        over = measured & (distance > _limit(state, is_norm, deviations, warmup))
        rebase = over & (state.streak >= rebase_after)
        spike = over & ~rebase
        # Scalar by scalar: a reduction would be a kernel of its own on a GPU.
        accept, alerts = jnp.ones((), jnp.bool_), jnp.zeros((), jnp.int32)
        for index, signal in enumerate(labels):
            accept &= ~spike[index]
            alerts |= _ALERTS[signal].when(spike[index])
        learn = measured & accept & stats.finite
        rebased = rebase & learn
        for index in range(len(labels)):
            alerts |= Alert.REBASED.when(rebased[index])
        state = _learn(state, values, learn, rebased, decay)
        state = state._replace(
            streak=jnp.where(learn, 0, count_where(state.streak, spike)),
            spikes=count_where(state.spikes, spike),
        )
        return state, verdict(accept=accept, alerts=alerts)

    reads_loss = "loss" in labels
    return Guard(name, init, judge, labels=labels, reads_loss=reads_loss)


def _signals(
    labels: tuple[str, ...], stats: StepStats
) -> tuple[Float[Array, " signals"], Bool[Array, " signals"]]:
    """Return the signals and whether each is a fresh finite value."""
    # After a refusal the last update is an old one, already judged.
    fresh = (stats.consecutive_refused == 0) & (stats.applied > 0)
    readings = {
        "loss": (stats.loss, jnp.ones((), jnp.bool_)),
        "gradient_norm": (_log(stats.grad_norm), jnp.ones((), jnp.bool_)),
        "update_norm": (_log(stats.update_norm), fresh),
    }
    values = jnp.stack([readings[label][0] for label in labels])
    measured = jnp.stack([readings[label][1] for label in labels])
    return values, measured & jnp.isfinite(values)


def _log(norm: Array) -> Array:
    return jnp.log(jnp.maximum(norm, jnp.float32(_SMALLEST_NORM)))


def _limit(
    state: SkipSpikesState, is_norm: np.ndarray, deviations: float, warmup: int
) -> Float[Array, " signals"]:
    """Return the largest distance from the center that is still accepted."""
    level = jnp.maximum(jnp.abs(state.center), state.spread)
    loss_floor = jnp.maximum(_RELATIVE_FLOOR * level, _ABSOLUTE_FLOOR)
    floor = jnp.where(is_norm, jnp.float32(_RELATIVE_FLOOR), loss_floor)
    armed = deviations * jnp.maximum(state.spread, floor)
    wide = jnp.where(
        is_norm,
        jnp.float32(np.log(_WARMUP_FACTOR)),
        _WARMUP_FACTOR * jnp.maximum(level, _ABSOLUTE_FLOOR),
    )
    limit = jnp.where(state.seen >= warmup, armed, jnp.maximum(wide, armed))
    return jnp.where(state.seen > 0, limit, jnp.float32(jnp.inf))


def _learn(
    state: SkipSpikesState, values: Array, learn: Array, rebase: Array, decay: float
) -> SkipSpikesState:
    """Take the values into level and spread; start anew where asked to."""
    seen = jnp.where(rebase, 0, state.seen)
    # The first value is the level, so that its own deviation is zero.
    deviation = jnp.where(seen > 0, jnp.abs(values - state.center), 0.0)
    value = jnp.where(learn, values, jnp.nan)
    center = running_mean(state.center, value, seen, decay)
    spread = running_mean(
        state.spread, jnp.where(learn, deviation, jnp.nan), seen, decay
    )
    return state._replace(seen=count_where(seen, learn), center=center, spread=spread)
