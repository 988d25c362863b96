"""Densities: VAEs, a normalizing flow, and diffusion."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from harm.run import Run
from harm.runs.data import Data, digits, drawn, loss_on, moons
from harm.runs.models import Aux, Params, apply_mlp, mlp, named, normal

STEPS = 600
LATENT = 4


def autoencoder(seed: int) -> dict[str, Params]:
    """Return encoder and decoder of the VAE."""
    return {
        "encoder": mlp(64, 32, 2 * LATENT)(seed),
        "decoder": mlp(LATENT, 32, 64)(seed + 500),
    }


def latent(params: Any, x: jax.Array, key: Any) -> tuple[jax.Array, jax.Array]:
    """Return a sample of the code, and its divergence from the prior per example."""
    mean, log_var = jnp.split(apply_mlp(params["encoder"], x), 2, axis=-1)
    code = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
    kl = 0.5 * jnp.sum(mean**2 + jnp.exp(log_var) - 1 - log_var, axis=-1)
    return code, kl


def bernoulli_vae(params: Any, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the negative evidence bound of pixels as Bernoulli variables.

    ``batch["beta"]``, where there is one, weighs the divergence.
    """
    code, kl = latent(params, batch["x"], key)
    logits = apply_mlp(params["decoder"], code)
    unlikely = jax.nn.softplus(logits) - batch["x"] * logits
    aux = {
        "raw/reconstruction": jnp.mean(jnp.sum(unlikely, axis=-1)),
        "raw/divergence": jnp.mean(kl),
    }
    beta = batch.get("beta", jnp.float32(1.0))
    return aux["raw/reconstruction"] + beta * aux["raw/divergence"], aux


def annealed(seed: int) -> Data:
    """Return batches whose weight of the divergence rises from exactly 0 to 1."""
    beta = np.minimum(np.arange(STEPS) / 300, 1.0).astype(np.float32)
    return {**drawn(digits()[0], STEPS, 32, seed), "beta": beta}


def couplings(seed: int) -> Params:
    """Return four affine couplings in two dimensions, stacked; each is the identity."""
    rng = np.random.default_rng([seed, 13])
    return {
        "w0": normal(rng, 4, 1, 32, scale=1.0),
        "b0": normal(rng, 4, 32, scale=1.0),
        "w1": normal(rng, 4, 32, 2, scale=0.02),
    }


def flow(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the mean negative log-density of a flow (Dinh et al. 2017)."""
    del key

    def couple(carry: Any, layer: Params) -> tuple[Any, None]:
        x, log_det = carry
        still, moved = x[:, :1], x[:, 1:]
        hidden = jnp.tanh(still @ layer["w0"] + layer["b0"])
        log_scale, shift = jnp.split(hidden @ layer["w1"], 2, axis=-1)
        log_scale = 2 * jnp.tanh(log_scale / 2)
        moved = moved * jnp.exp(log_scale) + shift
        # The halves change places for the next coupling.
        return (jnp.concatenate([moved, still], axis=1), log_det + log_scale), None

    start = batch["x"], jnp.zeros((len(batch["x"]), 1), jnp.float32)
    (z, log_det), _ = jax.lax.scan(couple, start, params)
    unlikely = 0.5 * jnp.sum(z**2 + jnp.log(2 * jnp.pi), axis=-1) - log_det[:, 0]
    return named("negative_log_density", jnp.mean(unlikely))


def denoise(params: Params, batch: Any, key: Any) -> tuple[jax.Array, Aux]:
    """Return the squared error of the noise in points at a random time of diffusion."""
    x = batch["x"]
    keys = jax.random.split(key)
    time = jax.random.uniform(keys[0], (len(x), 1))
    noise = jax.random.normal(keys[1], x.shape)
    clean = jnp.cos(0.5 * jnp.pi * time)
    mixed = clean * x + jnp.sqrt(1 - clean**2) * noise
    seen = jnp.concatenate([mixed, time, clean], axis=-1)
    errors = apply_mlp(params, seen, jax.nn.silu) - noise
    return named("squared_error", jnp.mean(errors**2))


VAE = Run(
    name="vae_digits_adam",
    kind="VAE",
    steps=STEPS,
    init=autoencoder,
    loss=bernoulli_vae,
    optimizer=lambda: optax.adam(3e-3),
    batches=lambda seed: drawn(digits()[0], STEPS, 32, seed),
    score=loss_on(bernoulli_vae, lambda: digits()[1]),
    labels=None,
)

FLOW = Run(
    name="flow_moons_adam",
    kind="flow",
    steps=STEPS,
    init=couplings,
    loss=flow,
    optimizer=lambda: optax.adam(5e-3),
    batches=lambda seed: drawn(moons(), STEPS, 64, seed),
    score=loss_on(flow, moons),
    labels=None,
)

RUNS = (
    VAE,
    dataclasses.replace(VAE, name="vae_digits_annealed_from_zero", batches=annealed),
    FLOW,
    dataclasses.replace(
        FLOW,
        name="diffusion_moons_adamw",
        kind="diffusion",
        init=mlp(4, 48, 48, 2, gain=1.4),
        loss=denoise,
        optimizer=lambda: optax.adamw(
            optax.warmup_cosine_decay_schedule(0.0, 5e-3, 30, STEPS)
        ),
        score=loss_on(denoise, moons),
        clip=1.0,
    ),
)
