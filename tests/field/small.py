"""A small regression, and the guards of the README, for what users reported."""

import jax
import jax.numpy as jnp
import numpy as np
from helpers import rows_of

from stabjax import guards, make_train_step

KEY = jax.random.key(0)
START = {"b": np.zeros((), np.float32), "w": np.zeros(4, np.float32)}


def readme_guards():
    """Return the guards of the README."""
    return [
        guards.clip_by_global_norm(max_norm=1.0),
        guards.skip_spikes(),
        guards.skip_nonfinite(max_consecutive=10, on_exhausted="halt"),
        guards.back_off(factor=0.5),
    ]


def regression(steps, seed=0, size=16):
    """Return batches of a linear target; the batch ``n`` may be broken in place."""
    x = np.random.default_rng(seed).normal(size=(steps, size, 4)).astype(np.float32)
    return [{"x": part, "y": part @ np.arange(1.0, 5.0, dtype="f4")} for part in x]


def squared_error(params, batch, key):
    """Return the mean squared error of a linear model."""
    del key
    loss = jnp.mean((batch["x"] @ params["w"] + params["b"] - batch["y"]) ** 2)
    return loss, {"raw/fit": loss}


def trained(loss, optimizer, given, params, batches, **options):
    """Return the train step, its last state, and a row per step."""
    steps = len(batches)
    train = make_train_step(loss, optimizer, guards=given, window=steps, **options)
    state = train.init(params, batches[0])
    for batch in batches:
        state, _ = train.step(state, batch, KEY)
    return train, state, rows_of(state)


def refused(rows):
    """Return the steps that were refused."""
    return [row["step"] for row in rows if not row["accepted"]]
