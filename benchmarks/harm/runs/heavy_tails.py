"""Student-t noise with 1.5 degrees of freedom: its variance is infinite."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, loss_on
from harm.runs.models import Aux, Params, apply_mlp, mlp, named, regress

STEPS = 1200
FREEDOM = 1.5


def smooth(x: np.ndarray) -> np.ndarray:
    """Return a bounded function of 4 inputs, (..., 4) -> (..., 1)."""
    return (np.sin(x[..., :1]) + np.tanh(x[..., 1:2] - x[..., 2:3])) / 1.2


def heavy_targets(seed: int, steps: int = STEPS, size: int = 1) -> Data:
    """Return normal inputs, and targets with heavy noise of half their size."""
    rng = np.random.default_rng([seed, 27])
    x = rng.normal(size=(steps, size, 4))
    y = smooth(x) + 0.5 * rng.standard_t(FREEDOM, (steps, size, 1))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def heavy_inputs(seed: int, steps: int = STEPS, size: int = 1) -> Data:
    """Return inputs with heavy tails, and bounded targets with a little noise."""
    rng = np.random.default_rng([seed, 28])
    x = rng.standard_t(FREEDOM, (steps, size, 4))
    y = smooth(x) + 0.05 * rng.normal(size=(steps, size, 1))
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


def huber(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the mean Huber loss of a tanh MLP."""
    del key
    outputs = apply_mlp(params, batch["x"], jnp.tanh)
    return named("huber", jnp.mean(optax.losses.huber_loss(outputs, batch["y"])))


@functools.cache
def normal_inputs() -> Data:
    """Return 512 normal inputs and the function without noise."""
    x = np.random.default_rng(30).normal(size=(512, 4))
    return {"x": x.astype(np.float32), "y": smooth(x).astype(np.float32)}


TARGETS = Run(
    name="student_t_targets_huber_batch_of_one",
    kind="heavy tails",
    steps=STEPS,
    init=mlp(4, 16, 1),
    loss=huber,
    optimizer=lambda: optax.adam(optax.cosine_decay_schedule(3e-3, STEPS)),
    batches=heavy_targets,
    score=loss_on(regress, normal_inputs),
)

RUNS = (
    TARGETS,
    dataclasses.replace(
        TARGETS,
        name="student_t_targets_squared_batch_of_one",
        loss=regress,
        optimizer=lambda: optax.sgd(optax.cosine_decay_schedule(0.03, STEPS)),
        clip=1.0,
    ),
    dataclasses.replace(
        TARGETS,
        name="student_t_inputs_batch_of_one",
        loss=regress,
        batches=heavy_inputs,
    ),
)
