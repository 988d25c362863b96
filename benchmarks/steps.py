"""Losses for the trees of `programs`, so that whole train steps can be compiled.

Like the trees, the batches are shapes. Each loss reports the metrics that the whole
family of guards reads.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import programs

_HEADS = 8


def mlp_loss(params: Any, batch: Any, key: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy of a multilayer perceptron."""
    del key
    hidden, labels = batch
    for name in sorted(params, key=lambda name: (name == "head", name)):
        layer = params[name]
        hidden = hidden @ layer["kernel"] + layer["bias"][None, :]
        if name != "head":
            hidden = jax.nn.relu(hidden)
    return _reported(hidden, labels)


def transformer_loss(
    params: Any, batch: Any, key: Any
) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy of the next token under a decoder, normalization first."""
    del key
    tokens, labels = batch
    hidden = params["embedding"][tokens]
    layers = sum(name.startswith("layer") for name in params)
    for i in range(layers):
        layer = params[f"layer{i}"]
        hidden = hidden + _attention(_normalized(hidden, layer["norm1"]), layer)
        wide = _normalized(hidden, layer["norm2"]) @ layer["up"]
        wide = jax.nn.gelu(wide + layer["up_bias"])
        hidden = hidden + (wide @ layer["down"] + layer["down_bias"])
    return _reported(_normalized(hidden, params["norm"]) @ params["head"], labels)


def tiny_loss(params: Any, batch: Any, key: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Mean square distance of many small vectors from a batch of one vector each."""
    del key
    squares = [jnp.mean(jnp.square(leaf - batch)) for leaf in jax.tree.leaves(params)]
    return _with_metrics(jnp.mean(jnp.stack(squares)))


def _normalized(x: jax.Array, norm: dict[str, jax.Array]) -> jax.Array:
    mean = jnp.mean(x, axis=-1, keepdims=True)
    centered = x - mean
    scale = jax.lax.rsqrt(jnp.mean(centered * centered, axis=-1, keepdims=True) + 1e-5)
    return centered * scale * norm["scale"] + norm["bias"]


def _attention(x: jax.Array, layer: dict[str, jax.Array]) -> jax.Array:
    batch, length, width = x.shape
    q, k, v = (
        (x @ layer[name]).reshape(batch, length, _HEADS, width // _HEADS)
        for name in ("q", "k", "v")
    )
    mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return mixed.reshape(x.shape) @ layer["o"]


def _reported(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return _with_metrics(cross_entropy(logits, labels).mean())


def _with_metrics(loss: jax.Array) -> tuple[jax.Array, dict[str, Any]]:
    names = ("raw/task", "weighted/task", *programs.METRICS)
    return loss, dict.fromkeys(names, loss)


def _labelled(shape: tuple[int, ...], dtype: Any, labels: tuple[int, ...]) -> Any:
    return (
        jax.ShapeDtypeStruct(shape, dtype),
        jax.ShapeDtypeStruct(labels, jnp.int32),
    )


LOSSES: dict[str, Callable[[], Callable[..., Any]]] = {
    "mlp": lambda: mlp_loss,
    "transformer": lambda: transformer_loss,
    "tiny300": lambda: tiny_loss,
    "tiny2000": lambda: tiny_loss,
}
BATCHES: dict[str, Callable[[], Any]] = {
    "mlp": functools.partial(_labelled, (64, 784), jnp.float32, (64,)),
    "transformer": functools.partial(_labelled, (2, 64), jnp.int32, (2, 64)),
    "tiny300": lambda: jax.ShapeDtypeStruct((64,), jnp.float32),
    "tiny2000": lambda: jax.ShapeDtypeStruct((64,), jnp.float32),
}
