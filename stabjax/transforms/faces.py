"""Each guard by itself as an optax transformation, under its field name.

The guards that clip and scale are links for an `optax.chain`; those that refuse steps,
halt, or reset moments wrap the optimizer they are about, because a link that emits
zeros does not stop the momentum and the weight decay behind it.

A link scales what it can, and lets a NaN through to whoever refuses it: zeros would
hide it.

A bound may be a number or, under `optax.inject_hyperparams`, a scalar array; a step
whose injected bound is not positive is refused.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import optax

from stabjax import guards
from stabjax.core.given import is_optimizer, shown
from stabjax.transforms.guard import guard
from stabjax.transforms.link import link
from stabjax.types import Guard, Scalar

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")

# What a gradient transformation never gets to see.
STEP_ONLY = {
    "dead_gradient": "reads a metric of the loss",
    "dynamic_loss_scale": "multiplies the loss before it is differentiated",
    "empty_set": "reads a metric of the loss",
    "metric_range": "reads a metric of the loss",
    "saturation": "reads metrics of the loss",
    "sentinel": "reads a metric of the loss",
    "update_ratio_band": "reads the update ratio, which a train step measures",
}


def _wraps_an_optimizer(
    face: Callable[_Given, _Made],
) -> Callable[_Given, _Made]:
    """Tell in words that a face takes the optimizer first, where it is called without.

    As a link of a chain it would be called with its options alone.
    """

    @functools.wraps(face)
    def checked(*given: _Given.args, **options: _Given.kwargs) -> _Made:
        inner = given[0] if given else options.get("inner")
        if is_optimizer(inner) and not isinstance(inner, Guard | type):
            return face(*given, **options)
        name = face.__name__
        got = shown(inner) if given or "inner" in options else "no optimizer"
        parameters = list(inspect.signature(face).parameters.values())[1:]
        places = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        asked = [f"{p.name}=..." for p in places if p.default is p.empty]
        inside = ", ".join(["optax.adamw(1e-3)", *asked])
        raise TypeError(
            f"{name}: the first argument must be the optax optimizer that it guards, "
            f"got {got}. It is no link of a chain: write transforms.{name}({inside}), "
            f"or stabjax.guard(optax.adamw(1e-3), guards.{name}({', '.join(asked)}))."
        )

    return checked


def clip_by_global_norm(
    max_norm: float | Scalar,
) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.clip_by_global_norm` as a link of a chain.

    Example:
        >>> optimizer = optax.chain(clip_by_global_norm(1.0), optax.adam(1e-3))
    """
    return link(guards.clip_by_global_norm(max_norm=max_norm))


def clip_by_group_norm(
    max_norm: float | Scalar, groups: list[str] | tuple[str, ...]
) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.clip_by_group_norm` as a link of a chain."""
    return link(guards.clip_by_group_norm(max_norm=max_norm, groups=groups))


def clip_by_block_rms(
    threshold: float | Scalar, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.clip_by_block_rms` as a link of a chain."""
    return link(guards.clip_by_block_rms(threshold=threshold, **options))


def zclip(*first: Any, **options: Any) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.zclip` as a link of a chain."""
    return link(guards.zclip(*first, **options))


def reduce_on_plateau(
    *first: Any, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.reduce_on_plateau` as a link; update needs ``value=``."""
    return link(guards.reduce_on_plateau(*first, **options))


@_wraps_an_optimizer
def skip_nonfinite(
    inner: optax.GradientTransformation, *first: Any, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.skip_nonfinite`."""
    return guard(inner, guards.skip_nonfinite(*first, **options))


@_wraps_an_optimizer
def skip_spikes(
    inner: optax.GradientTransformation, *first: Any, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.skip_spikes`; update needs ``value=``."""
    return guard(inner, guards.skip_spikes(*first, **options))


@_wraps_an_optimizer
def skip_large(
    inner: optax.GradientTransformation, max_norm: float | Scalar, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.skip_large`."""
    return guard(inner, guards.skip_large(max_norm=max_norm, **options))


@_wraps_an_optimizer
def clip_update_spikes(
    inner: optax.GradientTransformation, *first: Any, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.clip_update_spikes`."""
    return guard(inner, guards.clip_update_spikes(*first, **options))


@_wraps_an_optimizer
def back_off(
    inner: optax.GradientTransformation, *first: Any, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.back_off`."""
    return guard(inner, guards.back_off(*first, **options))


@_wraps_an_optimizer
def reset_moments(
    inner: optax.GradientTransformation, *first: Any, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.reset_moments`; update needs ``params``."""
    return guard(inner, guards.reset_moments(*first, **options))


@_wraps_an_optimizer
def trivial_baseline(
    inner: optax.GradientTransformation, baseline: float, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.trivial_baseline`; needs ``value=``."""
    return guard(inner, guards.trivial_baseline(baseline=baseline, **options))


@_wraps_an_optimizer
def escalate(
    inner: optax.GradientTransformation, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.escalate`.

    The caller, who has the parameters, follows ``state.roll_back``.
    """
    return guard(inner, guards.escalate(**options))
