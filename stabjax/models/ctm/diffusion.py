"""Denoising of the answer: a cosine DDPM that is told what the core thinks."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import COLORS

__all__ = ["Denoiser", "cosine_signal", "squash_like_seed"]

STEPS = 1000  # length of the noise schedule
_FREQUENCIES = 8  # of the embedding of time


def cosine_signal() -> Float[np.ndarray, " steps"]:
    """Return the share of variance that is signal, after each step of the schedule.

    ``f(t) / f(0)`` with ``f(t) = cos^2((t / 1000 + 0.008) / 1.008 * pi / 2)``, kept
    above 1e-5 so that the last step still has a square root with a slope.

    Source:
        Nichol & Dhariwal (2021), arXiv 2102.09672.
    """
    time = np.arange(1, STEPS + 1) / STEPS
    signal = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    signal = signal / np.cos(0.008 / 1.008 * np.pi / 2) ** 2
    return np.maximum(signal, 1e-5).astype(np.float32)


def squash_like_seed(error: Float[Array, ""]) -> Float[Array, ""]:
    """Return ``tanh((error - 2.1) / 2.1)``, in (-0.762, 1) for an error >= 0.

    Gradient: that of the error times ``(1 - squashed**2) / 2.1``, at most 0.476.
    """
    return jnp.tanh((error - 2.1) / 2.1)


class Denoiser(nnx.Module):
    """Predicts the noise in a one-hot grid, the same small network for every cell."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        hidden = config.denoiser_hidden
        thought = config.pairs + config.neurons + config.readout
        self.cell = nnx.Linear(2 * COLORS, hidden, rngs=rngs)
        self.place = nnx.Embed(config.cells, hidden, rngs=rngs)
        self.thought = nnx.Linear(thought + 2 * _FREQUENCIES, hidden, rngs=rngs)
        self.norm = nnx.LayerNorm(hidden, rngs=rngs)
        self.middle = nnx.Linear(hidden, hidden, rngs=rngs)
        self.last = nnx.Linear(hidden, COLORS, rngs=rngs)

    def __call__(
        self,
        noisy: Float[Array, "batch cells colors"],
        step: Int[Array, " batch"],
        thought: Float[Array, "batch features"],
    ) -> Float[Array, "batch cells colors"]:
        """Return the noise it sees in ``noisy``."""
        whole = jnp.broadcast_to(jnp.mean(noisy, axis=1, keepdims=True), noisy.shape)
        time = jnp.concatenate([thought, _embed_time(step)], axis=-1)
        place = self.place.embedding[...]
        hidden = self.cell(jnp.concatenate([noisy, whole], axis=-1))
        hidden = hidden + place[None] + self.thought(time)[:, None]
        hidden = nnx.silu(self.norm(hidden))
        return self.last(nnx.silu(self.middle(hidden)))

    def error(
        self,
        target: Int[Array, "batch cells"],
        valid: Bool[Array, "batch cells"],
        thought: Float[Array, "batch features"],
        key: jax.Array,
    ) -> Float[Array, ""]:
        """Return the mean squared error of the noise at a random step per row.

        Colors are one-hot, -1 and 1; cells outside the grid are pure noise and are
        left out of the mean.
        """
        key_step, key_noise = jax.random.split(key)
        step = jax.random.randint(key_step, target.shape[:1], 0, STEPS)
        # A padded cell has no color: all -1.
        clean = 2.0 * jax.nn.one_hot(target, COLORS, dtype=jnp.float32) - 1.0
        noise = jax.random.normal(key_noise, clean.shape, jnp.float32)
        signal = jnp.asarray(cosine_signal())[step][:, None, None]
        noisy = jnp.sqrt(signal) * clean + jnp.sqrt(1.0 - signal) * noise
        squares = jnp.mean((self(noisy, step, thought) - noise) ** 2, axis=-1)
        cells = jnp.maximum(jnp.sum(valid), 1)
        return jnp.sum(jnp.where(valid, squares, 0.0)) / cells


def _embed_time(step: Int[Array, " batch"]) -> Float[Array, "batch twice"]:
    """Return sines and cosines of the step at eight octaves."""
    speeds = jnp.asarray(np.pi / STEPS * 2.0 ** np.arange(_FREQUENCIES), jnp.float32)
    angle = step.astype(jnp.float32)[:, None] * speeds[None]
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=-1)
