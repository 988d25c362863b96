"""Recurrent nets: adding over time, and sines; lengths that grow."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, loss_on
from harm.runs.models import Aux, Params, named, normal

STEPS = 500
LENGTH = 20
WIDTH = 24


def gru(seed: int) -> Params:
    """Return a gated recurrent unit of 24 over 2 inputs, and its linear head."""
    rng = np.random.default_rng([seed, 9])
    return {
        "inputs": normal(rng, 2, 3 * WIDTH, scale=0.7),
        "gates": normal(rng, WIDTH, 2 * WIDTH, scale=WIDTH**-0.5),
        "new": normal(rng, WIDTH, WIDTH, scale=WIDTH**-0.5),
        "bias": jnp.zeros(3 * WIDTH, jnp.float32),
        "head": normal(rng, WIDTH, 1, scale=WIDTH**-0.5),
    }


def apply_gru(params: Params, x: jax.Array) -> jax.Array:
    """Return the output after every step, (batch, time, 2) -> (time, batch, 1)."""

    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        from_x = x @ params["inputs"] + params["bias"]
        gates = from_x[:, : 2 * WIDTH] + h @ params["gates"]
        keep, reset = jnp.split(jax.nn.sigmoid(gates), 2, axis=-1)
        new = jnp.tanh(from_x[:, 2 * WIDTH :] + (reset * h) @ params["new"])
        h = keep * h + (1 - keep) * new
        return h, h

    start = jnp.zeros((len(x), WIDTH), x.dtype)
    _, hidden = jax.lax.scan(step, start, jnp.swapaxes(x, 0, 1))
    return hidden @ params["head"]


def add_up(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error of the sum, after the last step."""
    del key
    errors = apply_gru(params, batch["x"])[-1] - batch["y"]
    return named("squared_error", jnp.mean(errors**2))


def adding(seed: int, steps: int = STEPS, size: int = 16, short: bool = False) -> Data:
    """Return numbers of which two are marked, and the sum of the two.

    Where ``short``, only the last 4 steps hold numbers at first and all do at the end.
    """
    rng = np.random.default_rng([seed, 10])
    numbers = rng.uniform(-1, 1, (steps, size, LENGTH))
    length = np.full(steps, LENGTH)
    if short:
        length = np.minimum(4 + np.arange(steps) * 5 // steps * 4, LENGTH)
    last = LENGTH - 1 - np.floor(rng.random((steps, size)) * (length // 2)[:, None])
    first = (
        LENGTH
        - length[:, None]
        + np.floor(rng.random((steps, size)) * (length // 2)[:, None])
    )
    place = np.arange(LENGTH)
    marks = (place == first[..., None]) | (place == last[..., None])
    empty = place < LENGTH - length[:, None, None]
    numbers = np.where(empty, 0.0, numbers)
    y = (numbers * marks).sum(-1, keepdims=True)
    x = np.stack([numbers, marks], axis=-1)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


@functools.cache
def fresh_sums() -> Data:
    """Return 512 sequences that were not trained on."""
    return {name: array[0] for name, array in adding(10_000, 1, 512).items()}


def plain(seed: int) -> Params:
    """Return a tanh recurrent net with orthogonal weights (Le et al. 2015)."""
    rng = np.random.default_rng([seed, 11])
    orthogonal = np.linalg.qr(rng.normal(size=(WIDTH, WIDTH)))[0]
    return {
        "inputs": normal(rng, 1, WIDTH, scale=1.0),
        "hidden": jnp.asarray(orthogonal, jnp.float32),
        "bias": jnp.zeros(WIDTH, jnp.float32),
        "head": normal(rng, WIDTH, 1, scale=WIDTH**-0.5),
    }


def foresee(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error of the next value of every sequence at every step."""
    del key
    x = jnp.swapaxes(batch["x"], 0, 1)

    def step(h: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(x @ params["inputs"] + h @ params["hidden"] + params["bias"])
        return h, h

    start = jnp.zeros((x.shape[1], WIDTH), x.dtype)
    _, hidden = jax.lax.scan(step, start, x)
    errors = jnp.swapaxes(hidden @ params["head"], 0, 1) - batch["y"]
    return named("squared_error", jnp.mean(errors**2))


def sines(seed: int, steps: int = STEPS, size: int = 16) -> Data:
    """Return sums of two sines of random frequencies, and the next value of each."""
    rng = np.random.default_rng([seed, 12])
    time = np.arange(LENGTH + 1)
    shape = (steps, size, 1)
    slow, fast = rng.uniform(0.2, 0.5, shape), rng.uniform(0.6, 1.2, shape)
    phases = rng.uniform(0, 2 * np.pi, (2, *shape))
    wave = np.sin(slow * time + phases[0]) + 0.5 * np.sin(fast * time + phases[1])
    wave = wave[..., None].astype(np.float32)
    return {"x": wave[:, :, :-1], "y": wave[:, :, 1:]}


@functools.cache
def fresh_sines() -> Data:
    """Return 512 sequences that were not trained on."""
    return {name: array[0] for name, array in sines(10_000, 1, 512).items()}


GRU = Run(
    name="gru_adding_adam_clip",
    kind="recurrent",
    steps=STEPS,
    init=gru,
    loss=add_up,
    optimizer=lambda: optax.adam(optax.cosine_decay_schedule(1e-2, STEPS)),
    batches=adding,
    score=loss_on(add_up, fresh_sums),
    clip=1.0,
)

RUNS = (
    GRU,
    dataclasses.replace(
        GRU,
        name="gru_adding_growing_lengths",
        kind="curriculum",
        optimizer=lambda: optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 1e-2, 25, STEPS)
        ),
        batches=lambda seed: adding(seed, short=True),
    ),
    Run(
        name="rnn_sines_rmsprop_clip",
        kind="recurrent",
        steps=STEPS,
        init=plain,
        loss=foresee,
        optimizer=lambda: optax.rmsprop(2e-3),
        batches=sines,
        score=loss_on(foresee, fresh_sines),
        clip=0.5,
    ),
)
