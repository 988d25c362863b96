"""Multiply the loss so that small gradients do not vanish in half precision."""

import math
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp

from stabjax.core.running import count_where
from stabjax.guards import check
from stabjax.types import Alert, Count, Guard, Scalar, StepStats, Verdict, verdict

_LARGEST_SCALE = 2.0**100


class DynamicLossScaleState(NamedTuple):
    """State of `dynamic_loss_scale`.

    Attributes:
        scale: Present factor on the loss, a power of two in [floor, ceiling].
        good: Steps without overflow since the last change or overflow [steps].
        tolerance: Overflows left before the scale is lowered [steps].
        overflows: All steps with an overflow [steps].
        at_floor: All steps that asked for a scale below the floor [steps].
    """

    scale: Scalar
    good: Count
    tolerance: Count
    overflows: Count
    at_floor: Count


def dynamic_loss_scale(
    initial: float = 2.0**15,
    *,
    growth_interval: int = 2000,
    factor: float = 2.0,
    hysteresis: int = 1,
    floor: float = 1.0,
    ceiling: float = 2.0**24,
    on_floor: Literal["alert", "halt"] = "alert",
) -> Guard:
    """Scale the loss by the largest power of two that does not overflow.

    The gradient is that of ``scale * loss``, divided by the scale where it is
    clipped, which is exact. An overflow is a non-finite gradient of a finite loss;
    the finite contract refuses its step. From ``hysteresis`` overflows since the last
    growth on, each makes the scale ``max(scale / factor, floor)``; after
    ``growth_interval`` steps in a row without it becomes ``min(scale * factor,
    ceiling)``. A loss that is itself not finite says nothing about the scale and
    leaves it alone: the scale acts on the backward pass only.

    All limits are part of the program and only numbers are state, so that they hold
    through jit, checkpoints and resumed runs: jmp's scale loses its floor at the
    first jit boundary; flax's starts with Python numbers and compiles twice; Keras's
    has no floor.

    Beside the recommended guards it brought back none of 523 runs with faults more
    (``python benchmarks/do_no_harm.py faults``).

    Args:
        initial: Scale of the first step, a power of two in [floor, ceiling].
        growth_interval: Steps without overflow that raise the scale [steps], >= 1.
        factor: Factor of each change, a power of two in [2, 65536].
        hysteresis: Overflows after which the scale is lowered [steps], >= 1.
        floor: Smallest scale, a power of two in [2**-100, 2**100].
        ceiling: Largest scale, a power of two in [2**-100, 2**100].
        on_floor: What happens when an overflow asks for a scale below the floor, so
            that scaling is not the cure: ``"alert"`` says so each time; ``"halt"``
            refuses everything from then on and raises on the host.

    Returns:
        A guard for `make_train_step`; `stabjax.transforms.guard` sees no loss to
        scale.

    Raises:
        ValueError: If an option is out of range.

    Source:
        Micikevicius et al. (2018), arXiv:1710.03740; hysteresis as in Megatron-LM,
        where it is refilled by growth alone.

    Example:
        >>> guard = dynamic_loss_scale(initial=1024.0)
        >>> float(guard.loss_scale(guard.init()))
        1024.0
    """
    name = "dynamic_loss_scale"
    limits = (1 / _LARGEST_SCALE, _LARGEST_SCALE)
    _power_of_two(name, "floor", floor, *limits)
    _power_of_two(name, "ceiling", ceiling, *limits)
    check.in_range(name, "ceiling", ceiling, floor)
    _power_of_two(name, "initial", initial, floor, ceiling)
    _power_of_two(name, "factor", factor, 2.0, 65536.0)
    check.count(name, "growth_interval", growth_interval, low=1)
    check.count(name, "hysteresis", hysteresis, low=1)
    check.one_of(name, "on_floor", on_floor, ("alert", "halt"))

    def init() -> DynamicLossScaleState:
        return DynamicLossScaleState(
            scale=jnp.full((), initial, jnp.float32),
            good=jnp.zeros((), jnp.int32),
            tolerance=jnp.full((), hysteresis, jnp.int32),
            overflows=jnp.zeros((), jnp.int32),
            at_floor=jnp.zeros((), jnp.int32),
        )

    def judge(
        state: DynamicLossScaleState, stats: StepStats
    ) -> tuple[DynamicLossScaleState, Verdict]:
        judged = stats.loss_finite & stats.components_finite
        # What another guard has repaired did overflow.
        overflow = judged & (~stats.gradient_finite | (stats.repaired > 0))
        calm = judged & ~overflow
        tolerance = jnp.maximum(state.tolerance - overflow.astype(jnp.int32), 0)
        lower = overflow & (tolerance == 0)
        stuck = lower & (state.scale <= floor)
        good = jnp.where(overflow, 0, count_where(state.good, calm))
        grow = calm & (good >= growth_interval)
        scale = jnp.where(lower, jnp.maximum(state.scale / factor, floor), state.scale)
        scale = jnp.where(grow, jnp.minimum(scale * factor, ceiling), scale)
        alerts = Alert.LOSS_SCALE.when((scale < state.scale) | stuck)
        state = DynamicLossScaleState(
            scale=scale,
            good=jnp.where(grow, 0, good),
            tolerance=jnp.where(grow, hysteresis, tolerance).astype(jnp.int32),
            overflows=count_where(state.overflows, overflow),
            at_floor=count_where(state.at_floor, stuck),
        )
        halt = stuck if on_floor == "halt" else False
        return state, verdict(halt=halt, alerts=alerts)

    return Guard(name, init, judge, loss_scale=_scale_of)


def _scale_of(state: Any) -> Scalar:
    return state.scale


def _power_of_two(
    function: str, name: str, value: Any, low: float, high: float
) -> None:
    check.in_range(function, name, value, low, high)
    if math.frexp(value)[0] != 0.5:
        raise ValueError(
            f"{function}: {name} must be a power of two in [{low:g}, {high:g}], "
            f"got {value!r}."
        )
