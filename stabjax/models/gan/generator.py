"""The generator: an event's context from noise and condition, then its particles."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from stabjax.models.gan.config import Config
from stabjax.models.gan.layers import EventLinear, layer_norm, leaky_relu, linear

__all__ = ["Generator", "Noise", "draw_noise", "slots"]

Noise = tuple[
    Float[Array, "events event_noise"],
    Float[Array, "events capacity particle_noise"],
]


def draw_noise(config: Config, events: int, key: Key[Array, ""]) -> Noise:
    """Return standard normal noise for a batch of events and for all their slots."""
    # One draw: each costs a second of compilation on CPU.
    width = config.event_noise + config.capacity * config.particle_noise
    noise = jax.random.normal(key, (events, width))
    of_event, of_particle = jnp.split(noise, [config.event_noise], axis=1)
    return of_event, of_particle.reshape(events, config.capacity, -1)


def slots(
    count: Int[Array, " events"], capacity: int
) -> Bool[Array, "events capacity"]:
    """Return the mask of events that fill their first ``count`` slots."""
    return jnp.arange(capacity)[None] < count[:, None]


class Generator(nnx.Module):
    """Particles from the event's condition, the log of its count, and noise.

    The seed's layers: a global net with LayerNorm, then a local net per particle,
    which is independent of the other particles given the event's context.
    """

    def __init__(self, config: Config, conditions: int, features: int, rngs: nnx.Rngs):
        width = config.generator_width
        half, quarter = width // 2, width // 4
        seen = config.event_noise + conditions + 1
        self.event_in = linear(config, seen, half, rngs)
        self.event_norm = layer_norm(half, rngs)
        self.event_out = linear(config, half, width, rngs)
        self.context_norm = layer_norm(width, rngs)
        self.particle_in = EventLinear(config, config.particle_noise, width, half, rngs)
        self.particle_hidden = linear(config, half, quarter, rngs)
        self.particle_out = linear(config, quarter, features, rngs)

    def __call__(
        self,
        condition: Float[Array, "events conditions"],
        log_count: Float[Array, " events"],
        noise: Noise,
    ) -> Float[Array, "events capacity features"]:
        """Return the features of every slot, filled or not.

        Args:
            condition: What each event is drawn for, scaled.
            log_count: log10(count + 1).
            noise: From `draw_noise`.
        """
        of_event, of_particle = noise
        seen = jnp.concatenate([of_event, condition, log_count[:, None]], axis=1)
        hidden = leaky_relu(self.event_norm(self.event_in(seen)))
        context = leaky_relu(self.context_norm(self.event_out(hidden)))
        hidden = leaky_relu(self.particle_in(of_particle, context))
        return self.particle_out(leaky_relu(self.particle_hidden(hidden)))
