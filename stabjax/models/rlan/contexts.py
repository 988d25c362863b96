"""Equivariance: of pooled contexts, where it is zero for any network, and of outputs.

Turning features and then averaging over all places is averaging: the context of the
turned features is the context. The original averaged over all eight turns besides,
the seed's fix stopped doing that, and the loss stayed what it was.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.losses import dihedral, equivariance_loss, log_stablemax
from stabjax.models.rlan.config import Setting

__all__ = ["context_equivariance", "output_equivariance"]


def context_equivariance(
    features: Float[Array, "batch pairs places width"],
    real: Bool[Array, "batch pairs places"],
    setting: Setting,
) -> Float[Array, ""]:
    """Return the mean squared distance of contexts under the seven turns.

    Args:
        features: Of the demonstrations, without gradient to the encoder.
        real: Places that count.
        setting: ``before`` averages each context over all eight turns, ``seed`` does
            not. Zero but for rounding in both.
    """
    side = round(features.shape[2] ** 0.5)
    canvas = jnp.where(real[..., None], jax.lax.stop_gradient(features), 0.0)
    canvas = canvas.reshape(*canvas.shape[:2], side, side, -1)
    counted = jnp.maximum(jnp.sum(real, axis=(1, 2)), 1)[:, None]

    def pooled(turn: int) -> Array:
        turned = dihedral(canvas, turn, axes=(2, 3))
        if setting == "before":
            copies = [dihedral(turned, other, axes=(2, 3)) for other in range(8)]
            turned = sum(copies[1:], start=copies[0]) / 8.0
        return jnp.sum(turned, axis=(1, 2, 3)) / counted

    first = pooled(0)
    others = jnp.stack([pooled(turn) for turn in range(1, 8)])
    return equivariance_loss(others, jnp.broadcast_to(first[None], others.shape))


def output_equivariance(
    logits: Float[Array, "batch cells colors"],
    returned: Float[Array, "batch cells colors"],
    valid: Bool[Array, "batch cells"],
) -> Float[Array, ""]:
    """Return how far two answers are from each other, under stablemax.

    ``(KL(p | q) + KL(q | p)) / 2``, mean over the cells that count [nats]. Zero if
    turning the whole task turns the answer.

    Args:
        logits: Of the task.
        returned: Of the turned task, its cells brought back.
        valid: Cells that count.

    Gradient: each answer is drawn to the other as it stands.
    """
    both = jnp.stack([logits, returned]).astype(jnp.float32)
    both = log_stablemax(jnp.where(valid[None, :, :, None], both, 0.0))
    return equivariance_loss(
        both,
        both[::-1],
        mask=jnp.broadcast_to(valid[None], both.shape[:-1]),
        distance="cross_entropy",
    )
