"""What a step reports besides its losses."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.arc import PAD
from stabjax.models.rlan.clue_losses import clue_std
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.model import Answer

__all__ = ["centroid_spread", "right_grids", "step_metrics"]

# The flags of the original's monitor.
_FLAT_ATTENTION = 0.02  # largest attention below which it looks nowhere
_TOGETHER = 0.1  # mean distance of centroids, in cells, below which all clues are one


def step_metrics(
    config: Config,
    answer: Answer,
    target: Int[Array, "rows cells"],
    clues: Float[Array, " rows"],
) -> dict[str, Array]:
    """Return the scalars of one batch of training queries.

    Args:
        config: The configuration.
        answer: Of the queries.
        target: What was to be answered.
        clues: Number of clues of each query.
    """
    valid = target != PAD
    logits = jnp.where(valid[:, :, None], answer.logits.astype(jnp.float32), 0.0)
    spread = centroid_spread(answer.clues.centroid)
    strongest = jnp.mean(jnp.max(answer.clues.attention, axis=-1))
    capped = answer.lora_norm > config.lora_max_norm
    return {
        "train_exact": jnp.mean(right_grids(answer, target).astype(jnp.float32)),
        "logit_max": jnp.max(jnp.abs(logits)),
        "clues_mean": jnp.mean(clues),
        "clues_std": clue_std(clues),
        "stop_logit_max": jnp.max(jnp.abs(answer.clues.raw)),
        "lora_norm_mean": jnp.mean(answer.lora_norm),
        "lora_norm_max": jnp.max(answer.lora_norm),
        "lora_cap_hit": jnp.mean(capped.astype(jnp.float32)),
        "centroid_spread": spread,
        "centroids_collapsed": (spread < _TOGETHER).astype(jnp.float32),
        "attention_collapsed": (strongest < _FLAT_ATTENTION).astype(jnp.float32),
    }


def right_grids(
    answer: Answer, target: Int[Array, "rows cells"]
) -> Bool[Array, " rows"]:
    """Return which queries are answered right in every cell."""
    colors = jnp.argmax(answer.logits, axis=-1)
    return jnp.all((colors == target) | (target == PAD), axis=1)


def centroid_spread(centroid: Float[Array, "rows clues 2"]) -> Float[Array, ""]:
    """Return the mean distance of the clues of a query from their middle [cells]."""
    middle = jnp.mean(centroid, axis=1, keepdims=True)
    return jnp.mean(jnp.sqrt(jnp.sum((centroid - middle) ** 2, axis=-1)))
