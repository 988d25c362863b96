"""One bounded number from several losses, to steer a learning rule with."""

import chex
from jaxtyping import Array, Float

from stabjax.losses._hard_clamp import hard_clamp
from stabjax.losses._soft_clamp import soft_clamp
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen


def tanh_signal(
    terms: Float[Array, "*shape terms"],
    *,
    weights: tuple[float | int, ...],
    limit: float = 5.0,
    scale: float = 2.0,
) -> Float[Array, "*shape"]:
    """Turn losses into one learning signal in [-1, 1].

    ``tanh(sum_i weight_i * clip(term_i, -limit, limit) / scale)``. It modulates an
    update such as a Hebbian step, in sign and strength; it is no loss by itself. The
    clip keeps one exploding term from deciding alone, the tanh keeps order where a
    clip of the sum would make all large signals equal.

    Args:
        terms: Losses along the last axis, each in the unit of ``limit``; infinities
            count as the limit.
        weights: One number per term, its sign being the direction. The seed takes
            (1, -1, -1) of diffusion, cross-entropy and MCMC loss. ``|weight| * limit``
            must be at most 1e30.
        limit: Size beyond which a term no longer counts more, [1.2e-38, 1e30].
        scale: Weighted sum at which the signal is tanh(1) = 0.76, [1.2e-38, 1e30].

    Returns:
        The signal, dimensionless, float32 (float64 for float64 terms). NaN if a term
        is.

    Raises:
        ValueError: If an option is outside its range.
        AssertionError: If there is not one weight per term.

    Gradient:
        ``weight_i / scale / cosh(sum / scale)**2``; exactly zero for a term beyond
        its limit. Stop it where the signal is a mere factor.

    Source:
        Seed 000, plasticity signal. Before its fix the seed clipped the negative of
        this sum to [-1, 1]; the fix turned the sign around without saying so, hence
        weights to choose. Two losses that cancel give no signal at all.

    Example:
        >>> import jax.numpy as jnp
        >>> losses = jnp.array([0.5, 2.5, 900.0])
        >>> round(float(tanh_signal(losses, weights=(1, -1, 0))), 4)
        -0.7616
    """
    check_range("tanh_signal", "limit", limit)
    check_range("tanh_signal", "scale", scale)
    chex.assert_axis_dimension(terms, -1, len(weights))
    for place, weight in enumerate(weights):
        name = f"|weights[{place}]| * limit"
        check_range("tanh_signal", name, abs(weight) * limit, low=0.0)
    bounded, _ = hard_clamp(widen(terms), low=-limit, high=limit)
    parts = [weight * bounded[..., i] for i, weight in enumerate(weights)]
    total = sum(parts[1:], start=parts[0])
    return soft_clamp(total / scale, scale=1.0)
