"""Losses of unusual size and sign: 1e-8, 1e8, around -1000 and 1000."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, drawn, loss_on, teacher
from harm.runs.models import Aux, Params, apply_mlp, mlp, named, regress
from harm.runs.optimizers import TEACHER

STEPS = 600
WIDTH = 256


def noisy(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the negative log-likelihood of a mean and a scale: it gets negative."""
    del key
    mean, log_scale = jnp.split(apply_mlp(params, batch["x"], jnp.tanh), 2, axis=-1)
    log_scale = jnp.maximum(log_scale, -6.0)
    errors = (batch["y"] - mean) * jnp.exp(-log_scale)
    return named("negative_log_likelihood", jnp.mean(0.5 * errors**2 + log_scale))


def gaussian(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the negative log-likelihood of vectors under a Gaussian, per vector."""
    del key
    log_scale = params["log_scale"]
    errors = (batch["x"] - params["mean"]) * jnp.exp(-log_scale)
    unlikely = 0.5 * errors**2 + log_scale + 0.5 * jnp.log(2 * jnp.pi)
    return named("negative_log_likelihood", jnp.mean(jnp.sum(unlikely, axis=-1)))


@functools.cache
def vectors(scale: float) -> Data:
    """Return vectors of width 256 about a mean, with this standard deviation."""
    rng = np.random.default_rng(14)
    mean = rng.normal(size=WIDTH)
    x = mean * max(scale, 1.0) + scale * rng.normal(size=(1024, WIDTH))
    return {"x": x.astype(np.float32)}


def standard(seed: int) -> Params:
    """Return a Gaussian that is about the standard one."""
    rng = np.random.default_rng([seed, 14])
    mean = 0.1 * rng.normal(size=WIDTH)
    return {
        "mean": jnp.asarray(mean, jnp.float32),
        "log_scale": jnp.zeros(WIDTH, jnp.float32),
    }


def in_units(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error in units in which the targets are about 10^4."""
    del key
    errors = 1e4 * apply_mlp(params, batch["x"], jnp.tanh) - batch["y"]
    return named("squared_error", jnp.mean(errors**2))


GAUSSIAN = Run(
    name="gaussian_likelihood_minus_1000",
    kind="negative loss",
    steps=STEPS,
    init=standard,
    loss=gaussian,
    # Ends near 256 * (log(0.005) + 1.42) = -990, from about +300.
    optimizer=lambda: optax.adam(optax.cosine_decay_schedule(3e-2, STEPS)),
    batches=lambda seed: drawn(vectors(0.005), STEPS, 16, seed),
    score=loss_on(gaussian, lambda: vectors(0.005)),
    labels=None,
)

RUNS = (
    GAUSSIAN,
    dataclasses.replace(
        GAUSSIAN,
        name="gaussian_likelihood_plus_1000",
        kind="huge loss",
        optimizer=lambda: optax.adam(optax.cosine_decay_schedule(0.1, STEPS)),
        batches=lambda seed: drawn(vectors(12.0), STEPS, 16, seed),
        score=loss_on(gaussian, lambda: vectors(12.0)),
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_heteroscedastic_negative",
        kind="negative loss",
        init=mlp(8, 32, 2),
        loss=noisy,
        optimizer=lambda: optax.adam(optax.cosine_decay_schedule(5e-3, STEPS)),
        batches=lambda seed: drawn(teacher(noise=0.1)[0], STEPS, 32, seed),
        score=loss_on(noisy, lambda: teacher(noise=0.1)[0]),
        clip=5.0,
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_targets_of_1e-4",
        kind="tiny loss",
        init=mlp(8, 32, 1, gain=1e-2),
        optimizer=lambda: optax.adam(optax.cosine_decay_schedule(1e-3, STEPS)),
        batches=lambda seed: drawn(teacher(scale=1e-4)[0], STEPS, 32, seed),
        score=loss_on(regress, lambda: teacher(scale=1e-4)[1]),
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_targets_of_1e4",
        kind="huge loss",
        loss=in_units,
        optimizer=lambda: optax.adam(optax.cosine_decay_schedule(1e-2, STEPS)),
        batches=lambda seed: drawn(teacher(scale=1e4)[0], STEPS, 32, seed),
        score=loss_on(in_units, lambda: teacher(scale=1e4)[1]),
    ),
)
