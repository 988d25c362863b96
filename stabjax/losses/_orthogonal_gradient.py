"""Gradients without the part that only makes weights or logits larger.

Once every example is classified correctly, scaling up all logits lowers a
cross-entropy without changing a prediction. Gradients turn into that direction,
logits grow until the loss underflows, and nothing more is learned.
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from stabjax.numerics._norm import scaled_norm
from stabjax.numerics._precision import saturate, widen

# What is left of a gradient along its weights is the rounding of a float32 sum; a
# rest this small is not blown up to the length of the whole.
_NOISE = 2.0**-12


def _unit(x: Array, axis: int | tuple[int, ...]) -> Array:
    scaled, size, _ = scaled_norm(x, axis)
    return scaled / jnp.where(size == 0, 1.0, size)


@jax.custom_jvp
def _straight(logits: Array) -> Array:
    return logits


@_straight.defjvp
def _straight_jvp(primals: tuple, tangents: tuple) -> tuple:
    (logits,) = primals
    wide = widen(logits)
    finite = jnp.all(jnp.isfinite(wide), axis=-1, keepdims=True)
    unit = _unit(jnp.where(finite, wide, 0.0), -1)
    tangent = widen(tangents[0])
    along = jnp.sum(unit * tangent, axis=-1, keepdims=True)
    return logits, (tangent - along * unit).astype(logits.dtype)


def orthogonal_logits(
    logits: Float[Array, "*batch classes"],
) -> Float[Array, "*batch classes"]:
    """Return the logits; drop the part of their gradient that only scales them.

    The identity, with ``g - (x . g) / (x . x) x`` for the gradient g of each row x.
    Put it between a model and any loss of its logits, such as
    `stablemax_cross_entropy`.

    Args:
        logits: Any floats. Rows of zeros, and rows that are not finite, have no
            direction: their gradient passes as it is.

    Returns:
        ``logits``.

    Gradient:
        As above, at right angles to the row: to first order no logit vector gets
        longer. On purpose not the derivative of the identity. The loss may then
        stop falling at an example that is right, which is the point.

    Source:
        After Prieto et al. (2025), arXiv:2501.04697, which does it to weights, see
        `orthogonal_gradient`.

    Example:
        >>> logits = jnp.array([3.0, 0.0])
        >>> jax.grad(lambda x: jnp.sum(orthogonal_logits(x)))(logits).tolist()
        [0.0, 1.0]
    """
    return _straight(logits)


def _as_reals(x: Array) -> Array:
    """Return a complex array as two real ones along a new axis."""
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.stack([x.real, x.imag])
    return widen(x)


def _perpendicular(gradient: Any, weights: Any, keep_norm: bool) -> Any:
    if not jnp.issubdtype(gradient.dtype, jnp.inexact) or weights.size <= 1:
        return gradient
    wide, theta = _as_reals(gradient), _as_reals(weights)
    every = tuple(range(wide.ndim))
    scaled, size, power = scaled_norm(wide, every)
    unit = _unit(theta, every)
    rest = scaled - jnp.sum(unit * scaled) * unit
    if keep_norm:
        left = jnp.sqrt(jnp.sum(rest * rest))
        enough = left > _NOISE * size
        rest = rest * jnp.where(enough, size / jnp.where(enough, left, 1.0), 1.0)
    rest = saturate(rest * power, rest.dtype)
    if jnp.issubdtype(gradient.dtype, jnp.complexfloating):
        return jax.lax.complex(rest[0], rest[1]).astype(gradient.dtype)
    return saturate(rest, gradient.dtype)


def orthogonal_gradient(
    gradients: PyTree, params: PyTree, *, keep_norm: bool = False
) -> PyTree:
    """Remove from each leaf of the gradient what points along its weights.

    ``g - (w . g) / (w . w) w`` per leaf, so that a step does not lengthen or shorten
    the weights to first order, as naive minimization of the loss would. Sums are
    taken in float32 and scaled: right from 1e-38 to 1e38.

    Args:
        gradients: A tree of arrays.
        params: The parameters, of the same structure and shapes. A leaf of zeros has
            no direction: its gradient passes. So does that of a leaf with a single
            element, which could not move at all, and of an integer leaf.
        keep_norm: Scale each leaf back to the length of its whole gradient. A rest
            below 1/4096 of it is rounding, and is not scaled.

    Returns:
        The tree, with the dtypes of ``gradients``. A NaN makes its leaf NaN. Complex
        leaves are taken as pairs of real numbers.

    Raises:
        AssertionError: If the shapes of a gradient and its weights differ.

    Source:
        Prieto et al. (2025), arXiv:2501.04697.

    Example:
        >>> weights = {"w": jnp.array([2.0, 0.0]), "scale": jnp.array(3.0)}
        >>> gradient = {"w": jnp.array([5.0, 1.0]), "scale": jnp.array(1.0)}
        >>> rest = orthogonal_gradient(gradient, weights)
        >>> rest["w"].tolist(), float(rest["scale"])
        ([0.0, 1.0], 1.0)
    """

    def leaf(gradient: Any, weights: Any) -> Any:
        chex.assert_equal_shape([gradient, weights])
        return _perpendicular(gradient, weights, keep_norm)

    return jax.tree.map(leaf, gradients, params)
