"""HyperLoRA: demonstrations write low-rank changes of the solver's weights.

``dW_g = A_g(c) B_g(c)`` for the gates reset, update, candidate and output, from one
context c, the mean of all features of the demonstrations.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.models.rlan.config import Config, Setting
from stabjax.numerics import safe_sqrt

__all__ = ["TARGETS", "HyperLora", "LowRank", "cap_norm", "pool"]

TARGETS = ("reset", "update", "candidate", "output")
_FIRST = 0.005  # deviation of the first weights: nearly no change


class LowRank(NamedTuple):
    """Changes of the weights of every target, row by row.

    Attributes:
        left: The factors A.
        right: The factors B, capped.
        norm: Frobenius norm of A B before the cap.
    """

    left: Float[Array, "rows targets width rank"]
    right: Float[Array, "rows targets rank width"]
    norm: Float[Array, "rows targets"]

    def apply(
        self, target: str, x: Float[Array, "rows cells width"]
    ) -> Float[Array, "rows cells width"]:
        """Return ``x + x dW`` of the named target."""
        index = TARGETS.index(target)
        thin = jnp.einsum("rcw,rwk->rck", x, self.left[:, index])
        return x + jnp.einsum("rck,rkw->rcw", thin, self.right[:, index])


class HyperLora(nnx.Module):
    """Writes the changes from a context."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.width
        self.rank = config.lora_rank
        self.setting: Setting = config.lora_cap
        self.limit = config.lora_max_norm
        self.hidden = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.write = nnx.Linear(
            width,
            2 * len(TARGETS) * width * config.lora_rank,
            kernel_init=nnx.initializers.normal(_FIRST),
            bias_init=nnx.initializers.normal(_FIRST),
            rngs=rngs,
        )

    def context(
        self,
        tokens: Float[Array, "rows pairs places width"],
        real: Bool[Array, "rows pairs places"],
    ) -> Float[Array, "rows width"]:
        """Return what the demonstrations have in common."""
        return self.norm(nnx.gelu(self.hidden(pool(tokens, real))))

    def __call__(self, context: Float[Array, "rows width"]) -> LowRank:
        """Return the changes, capped as the configuration says."""
        width = context.shape[-1]
        written = self.write(context).reshape(
            len(context), 2, len(TARGETS), width, self.rank
        )
        left, right = written[:, 0], jnp.swapaxes(written[:, 1], -1, -2)
        factor, norm = cap_norm(left, right, self.setting, self.limit)
        return LowRank(left, right * factor[:, :, None, None], norm)


def pool(
    tokens: Float[Array, "rows pairs places width"],
    real: Bool[Array, "rows pairs places"],
) -> Float[Array, "rows width"]:
    """Return the mean over every real place of every pair; zero where there is none."""
    total = jnp.sum(jnp.where(real[..., None], tokens, 0.0), axis=(1, 2))
    return total / jnp.maximum(jnp.sum(real, axis=(1, 2)), 1)[:, None]


def cap_norm(
    left: Float[Array, "rows targets width rank"],
    right: Float[Array, "rows targets rank width"],
    setting: Setting,
    limit: float,
) -> tuple[Float[Array, "rows targets"], Float[Array, "rows targets"]]:
    """Return the factor that holds ``A B`` to a Frobenius norm, and the norm.

    ``min(1, limit / ||A B||)``: the direction is kept. The norm comes from two small
    matrices, ``||A B||^2 = sum((A^T A) * (B B^T))``.

    Args:
        left: The factors A.
        right: The factors B.
        setting: ``before`` does not cap, ``seed`` takes the plain root, whose slope
            at zero is infinite, ``sound`` one that is zero there.
        limit: Largest norm.

    Gradient:
        Of the factor where it caps, zero elsewhere; ``seed`` is NaN at A B = 0.
    """
    inner = jnp.einsum("rtwi,rtwj->rtij", left, left)
    outer = jnp.einsum("rtiw,rtjw->rtij", right, right)
    squared = jnp.sum(inner * outer, axis=(-2, -1))
    if setting == "seed":
        norm = jnp.sqrt(jnp.maximum(squared, 0.0))
        factor = jnp.minimum(limit / norm, 1.0)
    else:
        norm = safe_sqrt(jnp.maximum(squared, 0.0))
        factor = limit / jnp.maximum(norm, limit)
    if setting == "before":
        factor = jnp.ones_like(factor)
    return factor, jax.lax.stop_gradient(norm)
