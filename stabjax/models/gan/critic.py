"""The critic: features of each particle, a pool over the event, one score."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.losses import Saturation, hard_clamp, saturation
from stabjax.models.gan.config import Config
from stabjax.models.gan.layers import (
    EventLinear,
    layer_norm,
    leaky_relu,
    linear,
    linear_map,
    singular_value,
)

__all__ = ["CLAMP", "SENTINEL", "TANH", "Critic", "Scores", "bound_scores", "stuck"]

SENTINEL = -1e9  # what the seed pools where there is no particle
CLAMP = 1000.0  # the original's bound on scores
TANH = 100.0  # the scale of the seed's


class Scores(NamedTuple):
    """What the critic says of a batch of events.

    Attributes:
        score: The bounded score of each event.
        unbounded: What went into the bound.
        pooled_min: Smallest number that entered the last layers.
        repaired: Numbers that were replaced because they were not finite.
    """

    score: Float[Array, " events"]
    unbounded: Float[Array, " events"]
    pooled_min: Float[Array, ""]
    repaired: Float[Array, ""]


class Critic(nnx.Module):
    """Scores of padded events; what lies outside the mask has no influence."""

    def __init__(self, config: Config, conditions: int, features: int, rngs: nnx.Rngs):
        width = config.critic_width
        self.config = config
        self.particle_in = EventLinear(config, features, conditions, width // 2, rngs)
        self.particle_out = linear(config, width // 2, width, rngs)
        pools = 1 if config.pooling == "max" else 3
        counted = 0 if config.pooling == "max" else 1
        seen = pools * width + counted + conditions
        self.event_in = linear(config, seen, width, rngs)
        self.event_out = linear(config, width, 1, rngs)
        if config.critic_norm == "layer":
            self.norm_in = layer_norm(width // 2, rngs)
            self.norm_out = layer_norm(width, rngs)
            self.norm_event = layer_norm(width, rngs)

    def __call__(
        self,
        particles: Float[Array, "events capacity features"],
        mask: Bool[Array, "events capacity"],
        condition: Float[Array, "events conditions"],
    ) -> Scores:
        """Score each event by itself."""
        layered = self.config.critic_norm == "layer"
        keep = lambda x: x
        norm_in = self.norm_in if layered else keep
        norm_out = self.norm_out if layered else keep
        norm_event = self.norm_event if layered else keep
        hidden = self.particle_in(
            particles, condition, self._scale(self.particle_in.linear)
        )
        hidden = leaky_relu(norm_in(hidden))
        hidden = leaky_relu(norm_out(self._apply(self.particle_out, hidden)))
        hidden, broken = self._repaired(hidden, mask[..., None])
        pooled = self._pool(hidden, mask)
        pooled, lost = self._repaired(pooled, nan=SENTINEL, infinite=-SENTINEL)
        seen = jnp.concatenate([pooled, condition], axis=1)
        hidden = leaky_relu(norm_event(self._apply(self.event_in, seen)))
        raw = self._apply(self.event_out, hidden)[:, 0]
        if self.config.score_over_root_batch:
            raw = raw / jnp.sqrt(jnp.float32(raw.shape[0]))
        bounded = bound_scores(self.config)(raw)
        return Scores(bounded, raw, jnp.min(pooled), broken + lost)

    def _pool(self, hidden: Array, mask: Bool[Array, "events capacity"]) -> Array:
        held = mask[..., None]
        nothing = SENTINEL if self.config.empty_event == "sentinel" else 0.0
        filled = jnp.where(held, hidden, -jnp.inf)
        any_particle = jnp.any(mask, axis=1)[:, None]
        # The sentinel takes part in the maximum, as in the original.
        floor = nothing if nothing < 0.0 else -jnp.inf
        largest = jnp.max(filled, axis=1, initial=floor)
        largest = jnp.where(any_particle, largest, nothing)
        if self.config.pooling == "max":
            return largest
        total = jnp.sum(jnp.where(held, hidden, 0.0), axis=1)
        count = jnp.sum(mask, axis=1, dtype=jnp.float32)[:, None]
        mean = total / jnp.maximum(count, 1.0)
        share = 1.0 / self.config.capacity
        return jnp.concatenate([largest, mean, total * share, count * share], axis=1)

    def _repaired(
        self,
        x: Array,
        mask: Array | bool = True,
        *,
        nan: float = 0.0,
        infinite: float = 0.0,
    ) -> tuple[Array, Float[Array, ""]]:
        """Replace what is not finite, as the seed does, and count it."""
        if not self.config.repair:
            return x, jnp.zeros((), jnp.float32)
        broken = ~jnp.isfinite(x) & mask
        fixed = jnp.nan_to_num(x, nan=nan, posinf=infinite, neginf=-infinite)
        return fixed, jnp.sum(broken, dtype=jnp.float32)

    def _apply(self, layer: nnx.Linear, x: Array) -> Array:
        scale = self._scale(layer)
        return layer(x) if scale is None else linear_map(layer, x, scale)

    def _scale(self, layer: nnx.Linear) -> Array | None:
        if not self.config.spectral_norm:
            return None
        return 1.0 / jnp.maximum(singular_value(layer.kernel[...]), 1e-6)


def bound_scores(config: Config) -> Callable[[Array], Array]:
    """Return the bound on scores.

    Gradient:
        ``before``, a clamp: exactly zero beyond 1000. ``seed``, 100 tanh(s / 100) as
        its authors wrote it: exactly zero in float32 beyond about 901. `sound`: there
        is no bound.
    """
    if config.score_bound == "before":
        return lambda score: hard_clamp(score, low=-CLAMP, high=CLAMP)[0]
    if config.score_bound == "seed":
        return lambda score: TANH * jnp.tanh(score / TANH)
    return lambda score: score


def stuck(config: Config, scores: Scores) -> Saturation:
    """Return which share of scores sits at the bound, and which is without slope."""
    if config.score_bound == "sound":
        nothing = jnp.zeros((), jnp.float32)
        return Saturation(nothing, nothing)
    bound = CLAMP if config.score_bound == "before" else TANH
    return saturation(scores.unbounded, bound, activation=bound_scores(config))
