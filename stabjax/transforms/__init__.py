"""Faces to optax: `guard` around an optimizer, and each guard by its field name.

The clipping and scaling guards are links for an `optax.chain`; those that refuse
steps wrap the optimizer that must not move, because a link that emits zeros does
not stop the momentum and the weight decay behind it.
"""

from typing import Any

import optax

from stabjax import guards
from stabjax.transforms.guard import GuardState as GuardState
from stabjax.transforms.guard import guard as guard
from stabjax.transforms.optimizers import adamw as adamw
from stabjax.transforms.optimizers import lion as lion
from stabjax.transforms.optimizers import sgd as sgd


def clip_by_global_norm(
    max_norm: float,
) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.clip_by_global_norm` as a link of a chain.

    Example:
        >>> optimizer = optax.chain(clip_by_global_norm(1.0), optax.adam(1e-3))
    """
    clip = guards.clip_by_global_norm(max_norm=max_norm)
    return guard(optax.identity(), clip)


def clip_by_group_norm(
    max_norm: float, groups: list[str] | tuple[str, ...]
) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.clip_by_group_norm` as a link of a chain."""
    clip = guards.clip_by_group_norm(max_norm=max_norm, groups=groups)
    return guard(optax.identity(), clip)


def reduce_on_plateau(**options: Any) -> optax.GradientTransformationExtraArgs:
    """Return `stabjax.guards.reduce_on_plateau` as a link; update needs ``value=``."""
    return guard(optax.identity(), guards.reduce_on_plateau(**options))


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
