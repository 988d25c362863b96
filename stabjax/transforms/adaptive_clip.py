"""Clip each unit of a gradient against the size of its own parameters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from stabjax.core.layout import is_inexact
from stabjax.core.running import count_where, running_mean
from stabjax.core.sums import SMALL_UNIT, square_in_unit
from stabjax.guards import check
from stabjax.transforms._common import moving
from stabjax.types import Count, Scalar

Axis = int | tuple[int, ...] | None

_DECAY = 0.99
# The axes that one unit extends over, by the rank of the tensor.
_AXES = {2: (0,), 3: (0,), 4: (0, 1, 2), 5: (0, 1, 2, 3)}


class AdaptiveClipState(NamedTuple):
    """What `adaptive_clip` has done.

    Attributes:
        steps: Steps so far.
        clip_fraction: Running share of the units that were clipped, in [0, 1].
        last_fraction: The same in the last step.
        nonfinite: Units in the last step that held an element that is not finite.
    """

    steps: Count
    clip_fraction: Scalar
    last_fraction: Scalar
    nonfinite: Count


def adaptive_clip(
    clipping: float, eps: float = 1e-3, axis: Axis = None
) -> optax.GradientTransformation:
    """Scale each unit of the gradient to at most a share of its parameters' norm.

    ``g * min(1, clipping * max(norm(p), eps) / norm(g))`` per unit: a column of a
    matrix, an output channel of a convolution, a whole vector. Values are those of
    `optax.adaptive_grad_clip`. In addition, norms are taken in float32 whatever the
    dtype and do not overflow; a unit that is not finite is left as it is, counted,
    and does not touch the others; and it runs under explicit sharding.

    Args:
        clipping: Largest ratio of gradient to parameter norm, in (0, inf).
        eps: Smallest norm of parameters that counts, so that zeros can be left
            [parameter], in (0, inf).
        axis: Axes that a unit extends over. None: by rank, all up to one, the first
            for two and three, all but the last for four and five.

    Returns:
        A gradient transformation that needs the parameters.

    Raises:
        ValueError: If an option is out of range; in `update`, without parameters, or
            for a tensor of rank six or more without ``axis``.

    Source:
        Brock et al. (2021), arXiv:2102.06171.

    Example:
        >>> clip = adaptive_clip(0.1)
        >>> params = jnp.ones((4, 2))
        >>> gradient = jnp.ones((4, 2)) * jnp.array([[8.0, 0.05]])
        >>> updates, state = clip.update(gradient, clip.init(params), params)
        >>> print(updates[0], state.last_fraction)
        [0.1  0.05] 0.5
    """
    name = "adaptive_clip"
    check.in_range(name, "clipping", clipping, 0.0, low_open=True)
    check.in_range(name, "eps", eps, 0.0, low_open=True)

    def init(params: PyTree) -> AdaptiveClipState:
        del params
        return AdaptiveClipState(
            steps=jnp.zeros((), jnp.int32),
            clip_fraction=jnp.zeros((), jnp.float32),
            last_fraction=jnp.zeros((), jnp.float32),
            nonfinite=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, AdaptiveClipState]:
        if params is None:
            raise ValueError(f"{name}: update needs params.")
        params = moving(params, updates)
        leaves, structure = jax.tree.flatten(updates)
        zero = jnp.zeros((), jnp.int32)
        clipped, units, over, bad = [], 0, zero, zero
        for leaf, param in zip(leaves, structure.flatten_up_to(params), strict=True):
            if is_inexact(leaf) and leaf.size:
                leaf, of_leaf = _clip(leaf, param, clipping, eps, _axes(leaf, axis))
                units += of_leaf.units
                over += of_leaf.over
                bad += of_leaf.bad
            clipped.append(leaf)
        share = over.astype(jnp.float32) / max(units, 1)
        fraction = running_mean(state.clip_fraction, share, state.steps, _DECAY)
        state = AdaptiveClipState(
            steps=count_where(state.steps, jnp.ones((), jnp.bool_)),
            clip_fraction=fraction,
            last_fraction=share,
            nonfinite=bad,
        )
        return jax.tree.unflatten(structure, clipped), state

    return optax.GradientTransformation(init, update)


class _Tally(NamedTuple):
    """How many units there are, were clipped, and are not finite."""

    units: int
    over: Count
    bad: Count


def _clip(
    gradient: Array, param: Array, clipping: float, eps: float, axes: tuple[int, ...]
) -> tuple[Array, _Tally]:
    norm = _unit_norm(gradient, axes)
    largest = clipping * jnp.maximum(_unit_norm(param, axes), eps)
    over = jnp.isfinite(norm) & (norm > largest)
    # The axes that were summed are kept, so that nothing has to be broadcast by
    # name, which explicit sharding refuses.
    factor = jnp.where(over, largest / norm, jnp.ones_like(norm))
    bad = jnp.sum(~jnp.isfinite(norm), dtype=jnp.int32)
    tally = _Tally(norm.size, jnp.sum(over, dtype=jnp.int32), bad)
    wide = jnp.promote_types(gradient.dtype, jnp.float32)
    return (gradient.astype(wide) * factor).astype(gradient.dtype), tally


def _unit_norm(x: Array, axes: tuple[int, ...]) -> Float[Array, "..."]:
    """Return the norm of each unit, axes kept; infinite only if an element is."""
    plain, small = (
        jnp.sqrt(jnp.sum(_square(x, unit), axis=axes, keepdims=True))
        for unit in (1.0, SMALL_UNIT)
    )
    return jnp.where(jnp.isfinite(plain), plain, small / SMALL_UNIT)


def _square(x: Array, unit: float) -> Float[Array, "..."]:
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return _square(x.real, unit) + _square(x.imag, unit)
    return square_in_unit(x.astype(jnp.promote_types(x.dtype, jnp.float32)), unit)


def _axes(leaf: Array, axis: Axis) -> tuple[int, ...]:
    if axis is not None:
        return (axis,) if isinstance(axis, int) else tuple(axis)
    if sum(size != 1 for size in leaf.shape) <= 1:
        return tuple(range(leaf.ndim))
    if leaf.ndim not in _AXES:
        raise ValueError(
            f"adaptive_clip: axis must be given for a tensor of rank {leaf.ndim}, "
            f"got shape {leaf.shape}."
        )
    return _AXES[leaf.ndim]
