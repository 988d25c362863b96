"""Each guard by itself as an optax transformation, under its field name.

The guards that clip and scale are links for an `optax.chain`; those that refuse steps,
halt, or reset moments wrap the optimizer they are about, because a link that emits
zeros does not stop the momentum and the weight decay behind it.

A link scales what it can, and lets a NaN through to whoever refuses it: zeros would
hide it.

A bound may be a number or, under `optax.inject_hyperparams`, a scalar array; a step
whose injected bound is not positive is refused.
"""

from typing import Any

import optax

from stabjax import guards
from stabjax.transforms.guard import guard
from stabjax.transforms.link import link
from stabjax.types import Scalar

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


def zclip(**options: Any) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.zclip` as a link of a chain."""
    return link(guards.zclip(**options))


def reduce_on_plateau(**options: Any) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.reduce_on_plateau` as a link; update needs ``value=``."""
    return link(guards.reduce_on_plateau(**options))


def skip_nonfinite(
    inner: optax.GradientTransformation, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.skip_nonfinite`."""
    return guard(inner, guards.skip_nonfinite(**options))


def skip_spikes(
    inner: optax.GradientTransformation, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.skip_spikes`; update needs ``value=``."""
    return guard(inner, guards.skip_spikes(**options))


def skip_large(
    inner: optax.GradientTransformation, max_norm: float | Scalar, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.skip_large`."""
    return guard(inner, guards.skip_large(max_norm=max_norm, **options))


def back_off(
    inner: optax.GradientTransformation, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.back_off`."""
    return guard(inner, guards.back_off(**options))


def reset_moments(
    inner: optax.GradientTransformation, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.reset_moments`; update needs ``params``."""
    return guard(inner, guards.reset_moments(**options))


def trivial_baseline(
    inner: optax.GradientTransformation, baseline: float, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.trivial_baseline`; needs ``value=``."""
    return guard(inner, guards.trivial_baseline(baseline=baseline, **options))


def escalate(
    inner: optax.GradientTransformation, **options: Any
) -> optax.GradientTransformationExtraArgs:
    """Wrap ``inner`` with `stabjax.guards.escalate`.

    The caller, who has the parameters, follows ``state.roll_back``.
    """
    return guard(inner, guards.escalate(**options))
