"""Losses that reach the end of float32, and new data after that."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, Score, loss_on, scored
from harm.runs.models import Aux, Params, cross_entropy, named, normal

STEPS = 600
WIDTH = 16
NEW = 360  # the step at which new data come
ROUND_OFF = 1e-11


def linear(seed: int) -> Params:
    """Return the weights of a linear map to one output."""
    rng = np.random.default_rng([seed, 15])
    return {"w": normal(rng, WIDTH, 1), "b": jnp.zeros(1, jnp.float32)}


def squared(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the mean squared error of the linear map."""
    del key
    errors = batch["x"] @ params["w"] + params["b"] - batch["y"]
    return named("squared_error", jnp.mean(errors**2))


def solvable(seed: int, steps: int = STEPS, size: int = 32) -> Data:
    """Return inputs and outputs of one linear map, without noise."""
    rng = np.random.default_rng([seed, 16])
    weights = np.random.default_rng(16).normal(size=(WIDTH, 1))
    x = rng.normal(size=(steps, size, WIDTH)).astype(np.float32)
    return {"x": x, "y": (x @ weights + 0.5).astype(np.float32)}


def corrections(seed: int, steps: int = STEPS, size: int = 32) -> Data:
    """Return what is to be added to a simulator: nothing, and from step 360 on a map.

    So the loss falls for 360 steps by a fixed factor, and then there is noise.
    """
    data = solvable(seed, steps, size)
    rng = np.random.default_rng([seed, 17])
    y = data["y"] + 0.1 * rng.normal(size=data["y"].shape)
    late = np.arange(steps) >= NEW
    y = np.where(late[:, None, None], y, 0.0)
    return {"x": data["x"], "y": y.astype(np.float32)}


def blobs(seed: int, steps: int = STEPS, size: int = 16, new: int = NEW) -> Data:
    """Return points of two far blobs, and from step 360 on also of two nearer ones."""
    rng = np.random.default_rng([seed, 18])
    label = rng.integers(0, 2, (steps, size))
    near = (rng.random((steps, size)) < 0.5) & (np.arange(steps) >= new)[:, None]
    centre = np.zeros((steps, size, WIDTH))
    centre[..., 0] = np.where(near, 0.0, 3.0) * (2 * label - 1)
    centre[..., 1] = np.where(near, 1.5, 0.0) * (2 * label - 1)
    x = centre + 0.5 * rng.normal(size=centre.shape)
    return {"x": x.astype(np.float32), "y": label.astype(np.int32)}


def two_classes(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the cross-entropy of a linear map to two logits."""
    del key
    logits = batch["x"] @ params["w"] + params["b"]
    return named("cross_entropy", jnp.mean(cross_entropy(logits, batch["y"])))


def above_round_off() -> Score:
    """Return the error on new inputs, or 1e-11 where it is smaller: it is round-off."""

    def measure(params: Params, model_state: Any, batch: Any) -> jax.Array:
        del model_state
        return jnp.maximum(squared(params, batch, None)[0], ROUND_OFF)

    return scored(measure, lambda: fresh(solvable))


@functools.cache
def fresh(batches: Any) -> Data:
    """Return the last of 600 batches of 512, with a seed that is not trained with."""
    return {name: array[-1] for name, array in batches(10_000, STEPS, 512).items()}


REGRESSION = Run(
    name="interpolation_sgd_momentum_1e-13",
    kind="interpolation",
    steps=STEPS,
    init=linear,
    loss=squared,
    optimizer=lambda: optax.sgd(0.02, momentum=0.9),
    batches=solvable,
    score=above_round_off(),
)

RUNS = (
    REGRESSION,
    dataclasses.replace(
        REGRESSION,
        name="interpolation_adam_to_zero",
        optimizer=lambda: optax.adam(optax.cosine_decay_schedule(0.05, STEPS)),
    ),
    dataclasses.replace(
        REGRESSION,
        name="underflow_1e-30_then_new_data",
        kind="new data",
        optimizer=lambda: optax.sgd(0.05),
        batches=corrections,
        score=loss_on(squared, lambda: fresh(corrections)),
    ),
    dataclasses.replace(
        REGRESSION,
        name="separable_then_new_data_adam",
        kind="new data",
        init=lambda seed: {
            "w": jnp.zeros((WIDTH, 2), jnp.float32),
            "b": jnp.zeros(2, jnp.float32),
        },
        loss=two_classes,
        optimizer=lambda: optax.adam(0.05),
        batches=blobs,
        score=loss_on(two_classes, lambda: fresh(blobs)),
    ),
)
