"""Cross-entropy over ticks of thought: which tick is trained, which one answers."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stabjax.losses import cross_entropy_per_example
from stabjax.numerics import masked_mean

__all__ = ["TickLosses", "answer_tick", "certainty", "tick_losses"]


class TickLosses(NamedTuple):
    """The cross-entropy of a batch and the ticks it was taken at."""

    loss: Float[Array, ""]  # [nats per cell]
    certain: Int[Array, " batch"]  # most certain tick of each row
    best: Int[Array, " batch"]  # tick of least cross-entropy


def tick_losses(
    logits: Float[Array, "ticks batch cells colors"],
    target: Int[Array, "batch cells"],
    valid: Bool[Array, "batch cells"],
    setting: str,
) -> TickLosses:
    """Return the cross-entropy as ``setting`` takes it from the ticks.

    ``sound``: per row, half at its tick of least cross-entropy, half at its most
    certain tick. ``seed``: the last tick. Rows count alike, whatever their size;
    cells outside the grid do not count.

    Gradient: that of the chosen ticks; choosing has none.

    Args:
        logits: Of every tick.
        target: Colors; only those of ``valid`` cells are read.
        valid: Cells of the grid, at least one per row.
        setting: "seed" or "sound".

    Source:
        Darlow et al. (2025), arXiv 2505.05522, section 3.5.
    """
    shape = logits.shape[:-1]
    everywhere = jnp.broadcast_to(valid[None], shape)
    labels = jnp.broadcast_to(target[None], shape)
    losses = cross_entropy_per_example(logits, labels, mask=everywhere)
    entropy = masked_mean(losses, everywhere, axis=-1)
    certain = jnp.argmax(certainty(logits, valid), axis=0)
    best = jnp.argmin(entropy, axis=0)
    rows = (_pick(entropy, best) + _pick(entropy, certain)) / 2
    if setting == "seed":
        rows = entropy[-1]
    return TickLosses(jnp.mean(rows), certain, best)


def certainty(
    logits: Float[Array, "ticks batch cells colors"],
    valid: Bool[Array, "batch cells"],
) -> Float[Array, "ticks batch"]:
    """Return one minus the normalized entropy, mean over valid cells, in [0, 1]."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    entropy = -jnp.sum(jnp.exp(log_p) * log_p, axis=-1) / np.log(logits.shape[-1])
    return 1.0 - masked_mean(
        entropy, jnp.broadcast_to(valid[None], entropy.shape), axis=-1
    )


def answer_tick(
    logits: Float[Array, "ticks batch cells colors"],
    valid: Bool[Array, "batch cells"],
    setting: str,
) -> Int[Array, "batch cells"]:
    """Return the colors of the tick that answers: the last (seed) or most certain."""
    colors = jnp.argmax(logits, axis=-1)
    if setting == "seed":
        return colors[-1]
    certain = jnp.argmax(certainty(logits, valid), axis=0)
    return jnp.take_along_axis(colors, certain[None, :, None], axis=0)[0]


def _pick(
    values: Float[Array, "ticks batch"], tick: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    return jnp.take_along_axis(values, tick[None], axis=0)[0]
