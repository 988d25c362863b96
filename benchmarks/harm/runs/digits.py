"""Classification of scikit-learn's digits: MLPs, and convolutions with BatchNorm."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, digits, drawn, loss_on, scored
from harm.runs.models import (
    Aux,
    Params,
    classify,
    cross_entropy,
    mlp,
    named,
    normal,
)

STEPS = 600


def train_batches(seed: int) -> Data:
    """Return 600 batches of 32 digits."""
    return drawn(digits()[0], STEPS, 32, seed)


MLP = Run(
    name="digits_mlp_adam_constant",
    kind="constant rate",
    steps=STEPS,
    init=mlp(64, 32, 10, gain=1.4),
    loss=classify,
    optimizer=lambda: optax.adam(2e-3),
    batches=train_batches,
    score=loss_on(classify, lambda: digits()[1]),
)


def dropped(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the cross-entropy with a third of the hidden units dropped."""
    hidden = jax.nn.relu(batch["x"] @ params["w0"] + params["b0"])
    kept = jax.random.bernoulli(key, 2 / 3, hidden.shape)
    hidden = jnp.where(kept, 1.5 * hidden, 0.0)
    logits = hidden @ params["w1"] + params["b1"]
    return named("cross_entropy", jnp.mean(cross_entropy(logits, batch["y"])))


def noisy_labels(seed: int) -> Data:
    """Return batches in which 40 % of the labels are drawn at random, for good."""
    train = digits()[0]
    rng = np.random.default_rng([seed, 3])
    random = rng.integers(0, 10, len(train["y"])).astype(np.int32)
    wrong = rng.random(len(train["y"])) < 0.4
    labels = np.where(wrong, random, train["y"])
    return drawn({"x": train["x"], "y": labels}, STEPS, 32, seed)


def convolutions(seed: int) -> Params:
    """Return two convolutions with BatchNorm and a linear head."""
    rng = np.random.default_rng([seed, 4])
    return {
        "conv0": normal(rng, 9, 8, scale=0.47),
        "scale0": jnp.ones(8),
        "shift0": jnp.zeros(8),
        "conv1": normal(rng, 72, 16, scale=0.17),
        "scale1": jnp.ones(16),
        "shift1": jnp.zeros(16),
        "head": normal(rng, 16, 10, scale=0.25),
        "bias": jnp.zeros(10),
    }


def running(seed: int) -> dict[str, jax.Array]:
    """Return the running statistics of BatchNorm before the first step."""
    del seed
    widths = {"0": 8, "1": 16}
    means = {f"mean{layer}": jnp.zeros(width) for layer, width in widths.items()}
    return means | {f"var{layer}": jnp.ones(width) for layer, width in widths.items()}


def patches(x: jax.Array) -> jax.Array:
    """Return the 3x3 patches at every second pixel, (n, h, w, c) -> (n, h/2, w/2, 9c).

    Times weights they are a convolution; that of XLA takes longer at this size.
    """
    height, width = x.shape[1:3]
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    places = [(row, column) for row in range(3) for column in range(3)]
    shifted = [x[:, i : i + height : 2, j : j + width : 2] for i, j in places]
    return jnp.concatenate(shifted, axis=-1)


def convolve(
    params: Params, x: jax.Array, model_state: dict[str, jax.Array], train: bool
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Return logits and the running statistics after this batch."""
    x = x.reshape(-1, 8, 8, 1)
    after = dict(model_state)
    for layer in ("0", "1"):
        x = patches(x) @ params[f"conv{layer}"]
        mean, var = model_state[f"mean{layer}"], model_state[f"var{layer}"]
        if train:
            now = jnp.mean(x, axis=(0, 1, 2)), jnp.var(x, axis=(0, 1, 2))
            after[f"mean{layer}"] = 0.9 * mean + 0.1 * now[0]
            after[f"var{layer}"] = 0.9 * var + 0.1 * now[1]
            mean, var = now
        x = (x - mean) * jax.lax.rsqrt(var + 1e-5)
        x = jax.nn.relu(x * params[f"scale{layer}"] + params[f"shift{layer}"])
    return jnp.mean(x, axis=(1, 2)) @ params["head"] + params["bias"], after


def batch_norm(
    params: Params, batch: Any, key: Any, *, model_state: Any
) -> tuple[jax.Array, Aux]:
    """Return the cross-entropy of the convolutions, and their new statistics."""
    del key
    logits, after = convolve(params, batch["x"], model_state, train=True)
    loss, aux = named("cross_entropy", jnp.mean(cross_entropy(logits, batch["y"])))
    return loss, aux | {"model_state": after}


def evaluated(params: Params, model_state: Any, data: Data) -> jax.Array:
    """Return the cross-entropy with the running statistics."""
    logits, _ = convolve(params, jnp.asarray(data["x"]), model_state, train=False)
    return jnp.mean(cross_entropy(logits, jnp.asarray(data["y"])))


CNN = Run(
    name="digits_cnn_batchnorm_sgd_one_cycle",
    kind="one-cycle",
    steps=300,
    init=convolutions,
    loss=batch_norm,
    optimizer=lambda: optax.sgd(
        optax.cosine_onecycle_schedule(300, peak_value=0.2), momentum=0.9
    ),
    batches=lambda seed: drawn(digits()[0], 300, 32, seed),
    score=scored(evaluated, lambda: digits()[1]),
    model_state=running,
)

RUNS = (
    MLP,
    dataclasses.replace(
        MLP,
        name="digits_mlp_sgd_momentum_step_decay",
        kind="step decay",
        optimizer=lambda: optax.sgd(
            optax.piecewise_constant_schedule(0.1, {300: 0.1, 450: 0.1}), momentum=0.9
        ),
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_rmsprop",
        kind="RMSprop",
        optimizer=lambda: optax.rmsprop(3e-3),
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_dropout_adamw",
        kind="dropout",
        init=mlp(64, 48, 10, gain=1.4),
        loss=dropped,
        optimizer=lambda: optax.adamw(3e-3, weight_decay=1e-2),
    ),
    dataclasses.replace(
        MLP, name="digits_mlp_label_noise_adam", kind="label noise",
        batches=noisy_labels,
    ),
    dataclasses.replace(
        MLP,
        name="digits_mlp_batch_of_one_sgd",
        kind="batch size 1",
        steps=1200,
        optimizer=lambda: optax.sgd(0.02),
        batches=lambda seed: drawn(digits()[0], 1200, 1, seed),
    ),
    CNN,
)  # fmt: skip
