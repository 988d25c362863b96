"""Data that change: harder ones, new classes, tasks in turn, batches without labels."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, digits, drawn, loss_on
from harm.runs.digits import MLP
from harm.runs.models import (
    Aux,
    Params,
    apply_mlp,
    cross_entropy,
    mlp,
    named,
    regress,
)

STEPS = 600
NEW = 300


def surface(x: np.ndarray) -> np.ndarray:
    """Return a smooth function of 4 inputs, (..., 4) -> (..., 1)."""
    y = np.sin(2 * x[..., 0]) + x[..., 1] * x[..., 2] + 0.5 * x[..., 3] ** 2
    return y[..., None]


def widening(seed: int, steps: int = STEPS, size: int = 32) -> Data:
    """Return inputs in a small cube, and from step 300 on in one five times as wide."""
    rng = np.random.default_rng([seed, 19])
    wide = np.where(np.arange(steps) < NEW, 0.4, 2.0)
    x = wide[:, None, None] * rng.uniform(-1, 1, (steps, size, 4))
    return {"x": x.astype(np.float32), "y": surface(x).astype(np.float32)}


def in_turn(seed: int, every: int, steps: int = STEPS, size: int = 32) -> Data:
    """Return two tasks by turns of ``every`` steps; the second's loss is 50 times."""
    rng = np.random.default_rng([seed, 20])
    second = (np.arange(steps) // every % 2).astype(bool)[:, None, None]
    x = rng.uniform(-1.5, 1.5, (steps, size, 4))
    y = np.where(second, np.sqrt(50) * surface(x[..., ::-1]), surface(x))
    which = np.broadcast_to(second, (steps, size, 1))
    x = np.concatenate([x, which, ~which], axis=-1)
    return {"x": x.astype(np.float32), "y": y.astype(np.float32)}


@functools.cache
def last_of(batches: Any) -> Data:
    """Return the last of 600 batches of 512, with a seed that is not trained with."""
    return {name: array[-1] for name, array in batches(10_000, STEPS, 512).items()}


@functools.cache
def both_tasks() -> Data:
    """Return 256 examples of each of the two tasks."""
    two = in_turn(10_000, 1, 2, 256)
    return {name: np.concatenate(list(array)) for name, array in two.items()}


def new_classes(seed: int) -> Data:
    """Return batches of the digits 0 to 4, and from step 300 on of all digits."""
    train = digits()[0]
    few = train["y"] < 5
    early = drawn({name: a[few] for name, a in train.items()}, NEW, 32, seed)
    late = drawn(train, STEPS - NEW, 32, seed + 1)
    return {name: np.concatenate([early[name], late[name]]) for name in train}


def masked(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the cross-entropy of the labelled examples: exactly 0 without any."""
    del key
    losses = cross_entropy(apply_mlp(params, batch["x"]), batch["y"])
    labelled = batch["labelled"]
    losses = jnp.where(labelled, losses, 0.0)
    loss = jnp.sum(losses) / jnp.maximum(jnp.sum(labelled), 1)
    return named("cross_entropy", loss)


def unlabelled_first(seed: int) -> Data:
    """Return batches of which the first 60 have no labels."""
    data = drawn(digits()[0], STEPS, 32, seed)
    some = np.random.default_rng([seed, 21]).random((STEPS, 32)) < 0.5
    some[:60] = False
    return {**data, "labelled": some}


def often_unlabelled(seed: int) -> Data:
    """Return batches of 4 of which three in ten are without labels."""
    data = drawn(digits()[0], STEPS, 4, seed)
    some = np.random.default_rng([seed, 22]).random((STEPS, 1)) < 0.7
    return {**data, "labelled": np.broadcast_to(some, (STEPS, 4)).copy()}


@functools.cache
def labelled() -> Data:
    """Return the digits held out, every one with its label."""
    held_out = digits()[1]
    return {**held_out, "labelled": np.ones(len(held_out["y"]), bool)}


WIDENING = Run(
    name="curriculum_harder_after_convergence",
    kind="curriculum",
    steps=STEPS,
    init=mlp(4, 32, 1),
    loss=regress,
    optimizer=lambda: optax.adam(1e-2),
    batches=widening,
    score=loss_on(regress, lambda: last_of(widening)),
)

IN_TURN = dataclasses.replace(
    WIDENING,
    name="tasks_in_turn_every_50_steps",
    kind="alternating tasks",
    init=mlp(6, 32, 1),
    batches=lambda seed: in_turn(seed, 50),
    score=loss_on(regress, both_tasks),
)

UNLABELLED = dataclasses.replace(
    MLP,
    name="digits_mlp_first_batches_unlabelled",
    kind="empty batches",
    loss=masked,
    batches=unlabelled_first,
    score=loss_on(masked, labelled),
)

RUNS = (
    WIDENING,
    IN_TURN,
    dataclasses.replace(
        IN_TURN,
        name="tasks_in_turn_every_step",
        optimizer=lambda: optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 2e-2, 50, STEPS)
        ),
        batches=lambda seed: in_turn(seed, 1),
        clip=1.0,
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_new_classes_sgd",
        kind="new data",
        optimizer=lambda: optax.sgd(0.05, momentum=0.9),
        batches=new_classes,
    ),
    UNLABELLED,
    dataclasses.replace(
        UNLABELLED,
        name="digits_mlp_often_unlabelled_sgd",
        optimizer=lambda: optax.sgd(0.02, momentum=0.9),
        batches=often_unlabelled,
    ),
)
