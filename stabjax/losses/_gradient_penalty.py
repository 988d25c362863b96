"""Penalties on the slope of a critic, safe to differentiate a second time."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt32

from stabjax.losses._spread_mask import spread_mask
from stabjax.numerics import masked_mean
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import power_of_two, widen

# Scores of a batch of examples, one each.
Critic = Callable[[Array], Array]


def _slopes(function: str, critic: Critic, points: Array, mask: Array) -> Array:
    """Return the gradient of each score in its own example, one row each."""

    def total(x: Array) -> Array:
        scores = critic(x)
        if scores.shape != x.shape[:1]:
            raise ValueError(
                f"{function}: critic must return shape {x.shape[:1]}, "
                f"got {scores.shape}."
            )
        return jnp.sum(scores)

    # Each score depends on its own example alone, so the sum keeps them apart.
    slopes = jax.grad(total)(points)
    rows = (points.shape[0], -1)
    return jnp.where(mask, widen(slopes), 0.0).reshape(rows)


def _smooth_norms(rows: Array, floor: float) -> Array:
    """Return ``sqrt(sum(row**2) + floor**2)``, all derivatives of which are finite.

    In units of a power of two no larger than the largest entry or the floor, so that
    the argument of the root is at least one, and at most a few times their number.
    """
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True, initial=floor)
    power = power_of_two(largest)
    scaled = rows * (1.0 / power)
    total = jnp.sum(scaled * scaled, axis=1, keepdims=True) + (floor / power) ** 2
    return jnp.squeeze(power * jnp.sqrt(total), 1)


def gradient_penalty(
    critic: Critic,
    real: Float[Array, "batch *event"],
    fake: Float[Array, "batch *event"],
    key: Key[Array, ""] | UInt32[Array, "2"],
    *,
    target: float = 1.0,
    one_sided: bool = False,
    mask: Bool[Array, "..."] | None = None,
    floor: float = 1e-6,
) -> Float[Array, ""]:
    """Hold the slope of a critic near ``target`` between real and fake examples.

    ``mean((n - target)**2)``, one-sided ``mean(max(n - target, 0)**2)``, with
    ``n = sqrt(||grad critic(x)||**2 + floor**2)`` at ``x = u real + (1 - u) fake``
    and one u ~ U[0, 1] per example. The norm is one per example, over all its
    entries: over single particles, the norm of the whole would grow with their
    number.

    Without ``floor`` the root has an infinite slope at zero, which the second
    backward pass multiplies by zero: a critic that is flat somewhere, as at the
    start of training, turns all its parameters into NaN.

    Args:
        critic: Scores of a batch, ``[batch, *event] -> [batch]``. Each score may
            depend on its own example alone: no batch normalization.
        real: Examples of the data.
        fake: As many generated examples.
        key: Random key.
        target: Slope to hold, in the unit of score per unit of the examples,
            [0, 1e30].
        one_sided: Penalize only steeper slopes.
        mask: Entries that count, of the leading axes of the examples, for example
            ``[batch, particles]``, for both. What stands elsewhere is replaced by
            zero before the critic sees it, and an example in which nothing counts
            is left out of the mean.
        floor: Size of slopes at which the norm bends, [1e-15, 1e15]. It bounds the
            second derivative by ``1 / floor``.

    Returns:
        The penalty, float32 (float64 for float64 examples). Zero if no example
        counts. Finite for slopes up to 1e18.

    Raises:
        ValueError: If an option is outside its range, or a shape is wrong.

    Gradient:
        With respect to what the critic closes over:
        ``2 mean((n - target) (g/n) dg)`` with g the slope, finite everywhere and zero
        where g is: an exactly flat critic has no direction to be made steeper in.
        None with respect to ``real`` and ``fake``.

    Source:
        Gulrajani et al. (2017), arXiv:1704.00028; one-sided, Petzka et al. (2018),
        arXiv:1709.08894. MPGAN adds 1e-12 under the root, as ``floor`` does.

    Example:
        >>> key, ones = jax.random.key(0), jnp.ones((4, 2))
        >>> critic = lambda x: 3.0 * x[:, 0]
        >>> float(gradient_penalty(critic, ones, -ones, key))
        4.0
    """
    check_range("gradient_penalty", "target", target, low=0.0)
    check_range("gradient_penalty", "floor", floor, low=1e-15, high=1e15)
    counts = spread_mask("gradient_penalty", mask, real)
    shape = real.shape[:1] + (1,) * (real.ndim - 1)
    part = jax.random.uniform(key, shape, real.dtype)
    points = jax.lax.stop_gradient(part * real + (1.0 - part) * fake)
    points = jnp.where(counts, points, 0.0)
    slopes = _slopes("gradient_penalty", critic, points, counts)
    excess = _smooth_norms(slopes, floor) - target
    excess = jnp.maximum(excess, 0.0) if one_sided else excess
    return masked_mean(excess * excess, _any_entry(counts))


def _any_entry(mask: Array) -> Array:
    return jnp.any(mask.reshape(mask.shape[0], -1), axis=1)


def r1_penalty(
    critic: Critic,
    real: Float[Array, "batch *event"],
    *,
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, ""]:
    """Flatten a critic at the real examples.

    ``mean(||grad critic(real)||**2) / 2``, to be weighted by the gamma of the paper.
    There is no root, so nothing to make safe.

    Args:
        critic: Scores of a batch, ``[batch, *event] -> [batch]``, each of its own
            example alone.
        real: Examples of the data; the fake ones for the R2 penalty.
        mask: Entries that count, as in `gradient_penalty`.

    Returns:
        The penalty, float32 (float64 for float64 examples). Zero if no example
        counts. Finite for slopes up to 1e18.

    Raises:
        ValueError: If a shape is wrong.

    Gradient:
        With respect to what the critic closes over: ``mean(g dg)`` with g the slope.
        None with respect to ``real``.

    Source:
        Mescheder, Geiger & Nowozin (2018), arXiv:1801.04406.

    Example:
        >>> float(r1_penalty(lambda x: 3.0 * x[:, 0], jnp.ones((4, 2))))
        4.5
    """
    counts = spread_mask("r1_penalty", mask, real)
    points = jnp.where(counts, jax.lax.stop_gradient(real), 0.0)
    slopes = _slopes("r1_penalty", critic, points, counts)
    return 0.5 * masked_mean(jnp.sum(slopes * slopes, axis=1), _any_entry(counts))
