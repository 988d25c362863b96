"""Data that ships or is generated, batches of it, and scores on it."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from harm.run import jit_quickly

Data = dict[str, np.ndarray]
Score = Callable[[Any, Any, int], float]


@functools.cache
def digits() -> tuple[Data, Data]:
    """Return scikit-learn's 8x8 digits, pixels in [0, 1]: 1437 to train on, 360 not."""
    from sklearn.datasets import load_digits

    every: Any = load_digits()
    x = (every.data / 16).astype(np.float32)
    y = every.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    return {"x": x[:1437], "y": y[:1437]}, {"x": x[1437:], "y": y[1437:]}


@functools.cache
def teacher(
    size: int = 1024, inputs: int = 8, noise: float = 0.0, scale: float = 1.0
) -> tuple[Data, Data]:
    """Return inputs and the targets of a random tanh network, of standard deviation 1.

    Args:
        size: How many to train on; 512 more are held out, without noise.
        inputs: Width of the inputs.
        noise: Standard deviation of the noise of the targets, before ``scale``.
        scale: Factor on the targets.
    """
    rng = np.random.default_rng(1)
    x = rng.normal(size=(size + 512, inputs))
    hidden = np.tanh(x @ rng.normal(size=(inputs, 16)) / np.sqrt(inputs) * 1.5)
    y = hidden @ rng.normal(size=(16, 1))
    y = (y - y.mean()) / y.std()
    y[:size] += noise * rng.normal(size=(size, 1))
    x, y = x.astype(np.float32), (scale * y).astype(np.float32)
    return {"x": x[:size], "y": y[:size]}, {"x": x[size:], "y": y[size:]}


@functools.cache
def moons(size: int = 2048) -> Data:
    """Return points of two interleaved half circles, of standard deviation 1."""
    rng = np.random.default_rng(2)
    angle = rng.uniform(0, np.pi, size)
    upper = rng.random(size) < 0.5
    x = np.where(upper, np.cos(angle), 1 - np.cos(angle))
    y = np.where(upper, np.sin(angle), 0.5 - np.sin(angle))
    points = np.stack([x, y], axis=1) + 0.08 * rng.normal(size=(size, 2))
    points = (points - points.mean(0)) / points.std(0)
    return {"x": points.astype(np.float32)}


@functools.cache
def spirals(size: int = 1024) -> Data:
    """Return points of two spirals of one turn, and which of the two each is on."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, size)
    along = np.sqrt(rng.random(size))
    angle = 2 * np.pi * along + np.pi * label
    points = along[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    points = 2 * points + 0.05 * rng.normal(size=(size, 2))
    return {"x": points.astype(np.float32), "y": label.astype(np.int32)}


def drawn(data: Data, steps: int, size: int, seed: int) -> Data:
    """Return ``steps`` batches of ``size`` examples, drawn with replacement."""
    index = np.random.default_rng([seed, 0]).integers(
        0, len(next(iter(data.values()))), (steps, size)
    )
    return {name: array[index] for name, array in data.items()}


def scored(measure: Callable[[Any, Any, Any], Any], data: Callable[[], Any]) -> Score:
    """Return the score ``measure(params, model_state, data())``, compiled once."""
    compiled = jit_quickly(measure)

    def score(params: Any, model_state: Any, seed: int) -> float:
        del seed
        return float(compiled(params, model_state, data()))

    return score


def loss_on(loss: Callable[..., Any], data: Callable[[], Any]) -> Score:
    """Return the score that is a stateless loss on ``data()``, with a fixed key."""

    def measure(params: Any, model_state: Any, batch: Any) -> Any:
        del model_state
        return loss(params, batch, jax.random.key(0))[0].astype(jnp.float32)

    return scored(measure, data)
