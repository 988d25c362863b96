"""Half precision: bfloat16 parameters, float16 with and without a loss scale."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from harm.runs.data import digits, loss_on, teacher
from harm.runs.digits import MLP
from harm.runs.models import (
    Aux,
    Params,
    apply_mlp,
    classify,
    cross_entropy,
    mlp,
    named,
)
from harm.runs.optimizers import TEACHER

SCALE = 1024.0


def in_dtype(init: Any, dtype: Any) -> Any:
    """Return ``seed -> params`` whose parameters are cast to ``dtype``."""
    return lambda seed: jax.tree.map(lambda x: x.astype(dtype), init(seed))


def half_classify(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the cross-entropy of an MLP computed in the dtype of its parameters."""
    del key
    x = batch["x"].astype(params["w0"].dtype)
    losses = cross_entropy(apply_mlp(params, x), batch["y"])
    return named("cross_entropy", jnp.mean(losses))


def half_regress(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error of an MLP computed in the dtype of its parameters."""
    del key
    x = batch["x"].astype(params["w0"].dtype)
    outputs = apply_mlp(params, x, jnp.tanh).astype(jnp.float32)
    return named("squared_error", jnp.mean((outputs - batch["y"]) ** 2))


def scaled_float16(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return 1024 times the loss: float32 parameters, all else in float16."""
    half = jax.tree.map(lambda x: x.astype(jnp.float16), params)
    loss, aux = half_classify(half, batch, key)
    return SCALE * loss, aux


RUNS = (
    dataclasses.replace(
        MLP,
        name="digits_mlp_bfloat16_adamw",
        kind="bfloat16",
        init=in_dtype(MLP.init, jnp.bfloat16),
        loss=half_classify,
        optimizer=lambda: optax.adamw(optax.cosine_decay_schedule(3e-3, 600)),
        score=loss_on(half_classify, lambda: digits()[1]),
        clip=1.0,
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_float16_static_scale",
        kind="float16",
        loss=scaled_float16,
        optimizer=lambda: optax.chain(optax.scale(1 / SCALE), optax.adam(3e-3)),
        score=loss_on(classify, lambda: digits()[1]),
    ),
    dataclasses.replace(
        TEACHER,
        name="teacher_float16_sgd",
        kind="float16",
        init=in_dtype(mlp(8, 32, 1), jnp.float16),
        loss=half_regress,
        optimizer=lambda: optax.sgd(
            optax.cosine_decay_schedule(0.1, 600), momentum=0.9
        ),
        score=loss_on(half_regress, lambda: teacher()[1]),
    ),
)
