"""Synchronization: how two neurons moved together, with a learned forgetting.

``S_t = sum_k r^(t-k) z_i(k) z_j(k) / sqrt(sum_k r^(t-k))`` with ``r = exp(-decay)``,
kept as two running sums, so that a tick costs the same however long the thought.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from stabjax.models.ctm.config import Config

__all__ = ["DECAY_LIMIT", "Synchronization", "SynchronizationState"]

DECAY_LIMIT = 15.0  # exp(-15): forgets everything within one tick
_FIRST_DECAY = 0.1  # remembers about ten ticks; not 0, the edge of the clip


class SynchronizationState(NamedTuple):
    """The running sums of `Synchronization`."""

    products: Float[Array, "batch pairs"]
    weights: Float[Array, "batch pairs"]


class Synchronization(nnx.Module):
    """Random but fixed pairs of neurons, each with its own decay.

    Gradient: zero for a decay outside [0, 15]; `clipped_share` counts those.
    """

    def __init__(self, config: Config, *, use: int):
        # Drawn from the wiring's seed: the same program serves every run's seed.
        rng = np.random.default_rng((config.wiring_seed, use))
        pairs = rng.integers(config.neurons, size=(2, config.pairs))
        self.left = tuple(int(n) for n in pairs[0])
        self.right = tuple(int(n) for n in pairs[1])
        self.decay = nnx.Param(jnp.full((config.pairs,), _FIRST_DECAY, jnp.float32))

    def start(self, batch: int) -> SynchronizationState:
        """Return the state before the first tick."""
        shape = (batch, len(self.left))
        return SynchronizationState(
            jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32)
        )

    def __call__(
        self, state: SynchronizationState, z: Float[Array, "batch neurons"]
    ) -> tuple[SynchronizationState, Float[Array, "batch pairs"]]:
        """Take in one tick's activations; the weights are >= 1 from then on."""
        keep = jnp.exp(-jnp.clip(self.decay[...], 0.0, DECAY_LIMIT))[None]
        joint = z[:, np.array(self.left)] * z[:, np.array(self.right)]
        state = SynchronizationState(
            keep * state.products + joint, keep * state.weights + 1.0
        )
        return state, state.products * jax.lax.rsqrt(state.weights)

    def clipped_share(self) -> Float[Array, ""]:
        """Return the share of decays outside the range, whose gradient is zero."""
        decay = self.decay[...]
        return jnp.mean(((decay < 0.0) | (decay > DECAY_LIMIT)).astype(jnp.float32))
