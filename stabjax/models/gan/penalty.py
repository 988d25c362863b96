"""The slope of the critic held at one: over an event, or over single particles."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

from stabjax.losses import gradient_penalty, hard_clamp
from stabjax.models.gan.config import Config
from stabjax.numerics import masked_mean, safe_norm

__all__ = ["penalty"]

_CEILING = 10.0  # the original's clamp on a particle's slope


def penalty(
    config: Config,
    critic: Callable[[Array], Array],
    real: Float[Array, "events capacity features"],
    fake: Float[Array, "events capacity features"],
    mask: Bool[Array, "events capacity"],
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """Return the gradient penalty that ``config`` names, unweighted.

    Args:
        config: Which penalty.
        critic: Features to one score per event, at this ``mask``.
        real: Particles of the data.
        fake: Generated particles.
        mask: Slots that are filled in both.
        key: Random key.
    """
    if config.gradient_penalty == "none":
        return jnp.zeros((), jnp.float32)
    if config.gradient_penalty == "event":
        return gradient_penalty(critic, real, fake, key, mask=mask)
    return _per_particle(critic, real, fake, mask, key)


def _per_particle(
    critic: Callable[[Array], Array],
    real: Array,
    fake: Array,
    mask: Bool[Array, "events capacity"],
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """Return the original's ``mean over particles of (min(|slope|, 10) - 1)**2``.

    Gradient:
        Zero for slopes above 10, where the penalty is largest.
    """
    part = jax.random.uniform(key, (real.shape[0], 1, 1))
    points = part * real + (1.0 - part) * fake
    points = jnp.where(mask[..., None], points, 0.0)
    slopes = jax.grad(lambda x: jnp.sum(critic(x)))(points)
    norms, _ = hard_clamp(safe_norm(slopes, axis=2), low=-jnp.inf, high=_CEILING)
    return masked_mean((norms - 1.0) ** 2, mask)
