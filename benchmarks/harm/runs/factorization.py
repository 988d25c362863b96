"""Products of factors: ratings, and deep linear nets that begin near a saddle."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, drawn, loss_on
from harm.runs.models import Aux, Params, named, normal

STEPS = 800
USERS, ITEMS, RANK = 60, 40, 4


@functools.cache
def ratings() -> tuple[Data, Data]:
    """Return users, items and noisy ratings: 1800 to train on and 600 held out."""
    rng = np.random.default_rng(36)
    table = rng.normal(size=(USERS, RANK)) @ rng.normal(size=(RANK, ITEMS)) / RANK**0.5
    user, item = np.divmod(rng.permutation(USERS * ITEMS), ITEMS)
    y = table[user, item] + 0.1 * rng.normal(size=user.shape)
    every = {
        "x": user.astype(np.int32),
        "item": item.astype(np.int32),
        "y": (3 + y).astype(np.float32),
    }
    train = {name: array[:1800] for name, array in every.items()}
    return train, {name: array[1800:] for name, array in every.items()}


def factors(seed: int) -> Params:
    """Return vectors and biases of users and items."""
    rng = np.random.default_rng([seed, 37])
    return {
        "users": normal(rng, USERS, RANK, scale=0.3),
        "items": normal(rng, ITEMS, RANK, scale=0.3),
        "bias": jnp.zeros((), jnp.float32),
    }


def rate(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error of ratings; the penalty of factors is a component."""
    del key
    user, item = params["users"][batch["x"]], params["items"][batch["item"]]
    errors = params["bias"] + jnp.sum(user * item, axis=-1) - batch["y"]
    aux = {
        "raw/squared_error": jnp.mean(errors**2),
        "raw/penalty": jnp.mean(jnp.sum(user**2 + item**2, axis=-1)),
    }
    return aux["raw/squared_error"] + 5e-3 * aux["raw/penalty"], aux


def small(seed: int) -> Params:
    """Return three square matrices near zero, where the gradient is nearly zero too."""
    rng = np.random.default_rng([seed, 38])
    return {"layers": normal(rng, 3, 8, 8, scale=0.1)}


def product(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error of the product of all layers."""
    del key
    x, _ = jax.lax.scan(lambda x, w: (x @ w, None), batch["x"], params["layers"])
    return named("squared_error", jnp.mean((x - batch["y"]) ** 2))


@functools.cache
def turned() -> Data:
    """Return inputs, and the same after a linear map of rank 3."""
    rng = np.random.default_rng(39)
    left, _, right = np.linalg.svd(rng.normal(size=(8, 8)))
    wanted = (left[:, :3] * np.array([3.0, 2.0, 1.0])) @ right[:3]
    x = rng.normal(size=(1024, 8))
    return {"x": x.astype(np.float32), "y": (x @ wanted).astype(np.float32)}


RUNS = (
    Run(
        name="matrix_factorization_sgd",
        kind="matrix factorization",
        steps=STEPS,
        init=factors,
        loss=rate,
        optimizer=lambda: optax.sgd(
            optax.cosine_decay_schedule(0.5, STEPS), momentum=0.9
        ),
        batches=lambda seed: drawn(ratings()[0], STEPS, 64, seed),
        score=loss_on(rate, lambda: ratings()[1]),
        inputs=None,
    ),
    Run(
        name="deep_linear_saddle_sgd",
        kind="plateaus",
        steps=STEPS,
        init=small,
        loss=product,
        optimizer=lambda: optax.sgd(0.05),
        batches=lambda seed: drawn(turned(), STEPS, 32, seed),
        score=loss_on(product, turned),
    ),
)
