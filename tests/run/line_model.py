"""A line fitted by least squares: the smallest thing the runner can run."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pydantic

from stabjax.models.task import Summary, Task
from stabjax.train_step import make_train_step

SUMMARY = (Summary("last loss", "loss", "last"),)
CURVES = ("loss",)
PICTURE = "<svg xmlns='http://www.w3.org/2000/svg'><title>a &lt;line&gt;</title></svg>"


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    width: int = pydantic.Field(3, gt=0)
    bad_from: int | None = None  # batches from here on hold a NaN
    bad_until: int | None = None
    raise_at: int | None = None
    sleep: float = 0.0  # seconds per batch, so that a test can interrupt


def build(
    config,
    *,
    optimizer,
    guards,
    window,
    seed,
    snapshot_every=None,
    snapshot_memory="device",
):
    def loss_fn(params, batch, key):
        noise = 0.01 * jax.random.normal(key, ())
        predicted = batch["x"] @ params["w"] + params["b"] + noise
        error = jnp.mean((predicted - batch["y"]) ** 2)
        return error, {"raw/error": error, "bias": params["b"]}

    train = make_train_step(
        loss_fn,
        optimizer,
        guards=guards,
        window=window,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )

    def batch_at(position):
        if config.sleep:
            time.sleep(config.sleep)
        if position == config.raise_at:
            raise StopIteration("the loader broke")
        random = np.random.default_rng((seed, position))
        x = random.normal(size=(8, config.width)).astype(np.float32)
        y = (x.sum(axis=1) + 1).astype(np.float32)
        if config.bad_from is not None and config.bad_from <= position < (
            config.bad_until or 10**9
        ):
            x[0, 0] = np.nan
        return {"x": x, "y": y}

    def init(key):
        params = {"w": jax.random.normal(key, (config.width,)), "b": jnp.zeros(())}
        first = {"x": np.zeros((8, config.width), np.float32), "y": np.zeros(8, "f4")}
        return train.init(params, first)

    def evaluate(state):
        return {"distance": float(jnp.abs(state.params["w"] - 1.0).max())}

    def artifacts(state):
        weights = ",".join(f"{w:.3f}" for w in np.asarray(state.params["w"]))
        return {"weights.csv": weights, "line_fit.svg": PICTURE, "raw.bin": b"\x00\xff"}

    return Task(train, init, batch_at, evaluate, artifacts)
