"""Exact match and pixel accuracy on real pairs, test pairs among them."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Int

from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import PAD, Tasks, evaluation_batch
from stabjax.models.ctm.objective import describe
from stabjax.models.ctm.ticks import answer_tick, tick_losses
from stabjax.models.modules import graph_of

__all__ = ["evaluate"]


def evaluate(
    tasks: Tasks, config: Config, params: Any, plastic: Any, *, chunk: int = 256
) -> dict[str, float]:
    """Return scores over every query; a grid matches if all its cells do.

    Args:
        tasks: The loaded tasks.
        config: The model's configuration.
        params: Parameters.
        plastic: Fast weights.
        chunk: Queries per call; the last chunk is filled up, so one program serves.

    Returns:
        ``train_exact_match``: share of training pairs solved, each under eight turns;
        ``test_exact_match``: share of test pairs solved, unturned;
        ``test_solved``, ``test_pairs``: the same as counts;
        ``train_pixel_accuracy``, ``test_pixel_accuracy``: share of cells;
        ``train_cross_entropy``: of the last tick [nats per cell], whatever was trained.
    """
    batch, held_out = evaluation_batch(tasks, config)
    rows = len(held_out)
    chunk = min(chunk, rows)
    parts = []
    for first in range(0, rows, chunk):
        taken = np.minimum(np.arange(first, first + chunk), rows - 1)
        part = {name: values[taken] for name, values in batch.items()}
        parts.append(
            jax.device_get(_judge(config, tasks.puzzles, params, plastic, part))
        )
    right, valid, entropy = (np.concatenate(x)[:rows] for x in zip(*parts, strict=True))
    exact = np.all(right | ~valid, axis=1)

    def pixels(which: np.ndarray) -> float:
        return float(np.sum(right[which] & valid[which]) / np.sum(valid[which]))

    return {
        "train_exact_match": float(np.mean(exact[~held_out])),
        "test_exact_match": float(np.mean(exact[held_out])),
        "test_solved": float(np.sum(exact[held_out])),
        "test_pairs": float(np.sum(held_out)),
        "train_pixel_accuracy": pixels(~held_out),
        "test_pixel_accuracy": pixels(held_out),
        "train_cross_entropy": float(np.mean(entropy[~held_out])),
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _judge(
    config: Config, puzzles: int, params: Any, plastic: Array, batch: dict[str, Array]
) -> tuple[Bool[Array, "rows cells"], Bool[Array, "rows cells"], Array]:
    """Return which cells are right, which count, and each row's cross-entropy."""
    machine = nnx.merge(graph_of(describe(config, puzzles)), params)
    answer = machine(batch["query"], batch["demos"], batch["puzzle"], plastic)
    target: Int[Array, "rows cells"] = batch["target"]
    valid = target != PAD
    colors = answer_tick(answer.logits, valid, config.cross_entropy)
    losses = jax.vmap(
        lambda logits, row, real: (
            tick_losses(logits[:, None], row[None], real[None], "seed").loss
        ),
        in_axes=(1, 0, 0),
    )(answer.logits, target, valid)
    return (colors == target) & valid, valid, losses
