"""Parts that stand still, for good or until later, and runs that continue."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import jit_quickly
from harm.runs.data import Data, digits, drawn, loss_on
from harm.runs.digits import MLP
from harm.runs.models import (
    Aux,
    Params,
    apply_mlp,
    classify,
    cross_entropy,
    named,
    normal,
)

STILL = optax.set_to_zero


def grouped(
    lower: optax.GradientTransformation, upper: optax.GradientTransformation
) -> optax.GradientTransformation:
    """Return one optimizer for the lower layer of `MLP`, one for all that is above."""

    def label(params: Params) -> dict[str, str]:
        lowest = ("w0", "b0")
        return {name: "lower" if name in lowest else "upper" for name in params}

    return optax.multi_transform({"lower": lower, "upper": upper}, label)


def thawed_at(step: int, rate: float) -> optax.Schedule:
    """Return a rate that is exactly zero before ``step``."""
    return optax.join_schedules(
        [optax.constant_schedule(0.0), optax.constant_schedule(rate)], [step]
    )


@functools.cache
def converged(seed: int) -> Params:
    """Return the parameters of `MLP` after 600 steps of Adam."""

    @jit_quickly
    def train(params: Params, batches: Data) -> Params:
        optimizer = optax.adam(5e-3)

        def step(carry: Any, batch: Any) -> tuple[Any, None]:
            params, state = carry
            gradients = jax.grad(lambda p: classify(p, batch, None)[0])(params)
            updates, state = optimizer.update(gradients, state, params)
            return (optax.apply_updates(params, updates), state), None

        start = params, optimizer.init(params)
        return jax.lax.scan(step, start, batches)[0][0]

    return train(MLP.init(seed), MLP.batches(seed + 1000))


def resumed(seed: int) -> Params:
    """Return a copy of the converged parameters: a step may donate them."""
    return jax.tree.map(jnp.copy, converged(seed))


def adapters(seed: int) -> Params:
    """Return a converged network with adapters whose second factor is zero (LoRA)."""
    rng = np.random.default_rng([seed, 5])
    down = normal(rng, 64, 8, scale=64**-0.5)
    return resumed(0) | {"down": down, "up": jnp.zeros((8, 32), jnp.float32)}


@functools.cache
def shuffled() -> tuple[Data, Data]:
    """Return the digits with their columns in another order, which is another task."""
    order = np.random.default_rng(5).permutation(8)

    def moved(part: Data) -> Data:
        x = part["x"].reshape(-1, 8, 8)[:, :, order].reshape(-1, 64)
        return {"x": x, "y": part["y"]}

    train, held_out = digits()
    return moved(train), moved(held_out)


def adapt(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the cross-entropy of the network with the adapters added."""
    del key
    weights = {name: params[name] for name in ("w0", "b0", "w1", "b1")}
    weights["w0"] = weights["w0"] + params["down"] @ params["up"]
    logits = apply_mlp(weights, batch["x"])
    return named("cross_entropy", jnp.mean(cross_entropy(logits, batch["y"])))


def only_adapters() -> optax.GradientTransformation:
    """Return Adam for the adapters and nothing for the network."""

    def label(params: Params) -> dict[str, str]:
        return {name: "train" if name in ("down", "up") else "fix" for name in params}

    return optax.multi_transform({"train": optax.adam(5e-3), "fix": STILL()}, label)


RUNS = (
    dataclasses.replace(
        MLP,
        name="digits_mlp_lower_layer_frozen",
        kind="frozen",
        optimizer=lambda: grouped(STILL(), optax.adam(5e-3)),
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_lower_layer_unfrozen_later",
        kind="unfrozen later",
        optimizer=lambda: grouped(
            optax.adam(thawed_at(300, 2e-3)), optax.adam(5e-3)
        ),
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_adapters_from_zero",
        kind="frozen",
        init=adapters,
        loss=adapt,
        optimizer=only_adapters,
        batches=lambda seed: drawn(shuffled()[0], 600, 32, seed),
        score=loss_on(adapt, lambda: shuffled()[1]),
    ),
    # Parameters of a finished run, moments from zero, and the full rate at once.
    dataclasses.replace(
        MLP,
        name="digits_mlp_resumed_adam",
        kind="resumed",
        init=resumed,
        optimizer=lambda: optax.adam(1e-3),
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_resumed_on_another_task_adamw",
        kind="resumed",
        init=resumed,
        optimizer=lambda: optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 5e-3, 60, 600)
        ),
        batches=lambda seed: drawn(shuffled()[0], 600, 32, seed),
        score=loss_on(classify, lambda: shuffled()[1]),
        clip=1.0,
    ),
)  # fmt: skip
