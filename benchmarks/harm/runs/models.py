"""Small models as plain functions: few leaves and small graphs, so quickly compiled."""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, jax.Array]
Aux = dict[str, Any]


def normal(rng: np.random.Generator, *shape: int, scale: float = 1.0) -> jax.Array:
    """Return float32 normal numbers of standard deviation ``scale``."""
    return jnp.asarray(scale * rng.normal(size=shape), jnp.float32)


def mlp(*sizes: int, gain: float = 1.0) -> Callable[[int], Params]:
    """Return ``seed -> params`` of a network with these widths.

    Weights are normal with standard deviation ``gain / sqrt(fan in)``, biases zero.
    """

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 1])
        params = {}
        for layer, (rows, columns) in enumerate(itertools.pairwise(sizes)):
            params[f"w{layer}"] = normal(rng, rows, columns, scale=gain / rows**0.5)
            params[f"b{layer}"] = jnp.zeros(columns, jnp.float32)
        return params

    return init


def apply_mlp(
    params: Params,
    x: jax.Array,
    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu,
) -> jax.Array:
    """Return the outputs of the network, (..., inputs) -> (..., outputs)."""
    last = len(params) // 2 - 1
    for layer in range(last + 1):
        x = x @ params[f"w{layer}"] + params[f"b{layer}"]
        x = activation(x) if layer < last else x
    return x


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Return the cross-entropy of every example in float32, (..., classes) -> (...)."""
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def named(name: str, loss: jax.Array) -> tuple[jax.Array, Aux]:
    """Return a loss of one component under its name."""
    return loss, {f"raw/{name}": loss}


def classify(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the mean cross-entropy of an MLP; the loss of many runs."""
    del key
    losses = cross_entropy(apply_mlp(params, batch["x"]), batch["y"])
    return named("cross_entropy", jnp.mean(losses))


def regress(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the mean squared error of a tanh MLP; the loss of many runs."""
    del key
    errors = apply_mlp(params, batch["x"], jnp.tanh) - batch["y"]
    return named("squared_error", jnp.mean(errors**2))


def transformer(
    tokens: int, length: int, width: int, layers: int
) -> Callable[[int], Params]:
    """Return ``seed -> params`` of a causal transformer; its layers are stacked."""

    def init(seed: int) -> Params:
        rng = np.random.default_rng([seed, 2])
        inner = width**-0.5
        return {
            "embed": normal(rng, tokens, width, scale=0.5),
            "position": normal(rng, length, width, scale=0.5),
            "qkv": normal(rng, layers, width, 3 * width, scale=inner),
            "out": normal(rng, layers, width, width, scale=inner / layers),
            "up": normal(rng, layers, width, 2 * width, scale=inner),
            "down": normal(rng, layers, 2 * width, width, scale=inner / layers),
            "head": normal(rng, width, tokens, scale=0.5 * inner),
        }

    return init


def apply_transformer(params: Params, tokens: jax.Array) -> jax.Array:
    """Return next-token logits, (batch, length) -> (batch, length, tokens)."""
    length = tokens.shape[1]
    width = params["embed"].shape[1]
    past = jnp.tril(jnp.ones((length, length), bool))

    def layer(x: jax.Array, w: Params) -> tuple[jax.Array, None]:
        q, k, v = jnp.split(rms_norm(x) @ w["qkv"], 3, axis=-1)
        similar = jnp.einsum("btd,bsd->bts", q, k) / width**0.5
        similar = jnp.where(past, similar.astype(jnp.float32), -1e30)
        attention = jax.nn.softmax(similar, axis=-1).astype(x.dtype)
        x = x + jnp.einsum("bts,bsd->btd", attention, v) @ w["out"]
        return x + jax.nn.relu(rms_norm(x) @ w["up"]) @ w["down"], None

    x = params["embed"][tokens] + params["position"][:length]
    stacked = {name: params[name] for name in ("qkv", "out", "up", "down")}
    x, _ = jax.lax.scan(layer, x, stacked)
    return rms_norm(x) @ params["head"]


def rms_norm(x: jax.Array) -> jax.Array:
    """Return ``x`` over its root mean square along the last axis."""
    square = jnp.mean(x.astype(jnp.float32) ** 2, axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-6).astype(x.dtype)
