"""The original's settings, and the critic's first scores of fake events."""

import functools

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from stabjax.models.gan.events import batch_at
from stabjax.models.gan.generator import draw_noise
from stabjax.models.gan.model import Players
from stabjax.models.gan.objective import Game
from stabjax.models.modules import initial_parameters

HASTY = {"xla_backend_optimization_level": 0}
# The failing original, at its own sizes.
BEFORE = {
    "generator_width": 256, "critic_width": 128, "count_width": 64,
    "event_noise": 32, "particle_noise": 16, "critic_norm": "none",
    "initialization": "torch", "score_bound": "before", "gradient_monitor": False,
    "fake_counts": "predicted", "count_head": "log_mse", "count_rate": None,
    "empty_event": "sentinel", "pooling": "max", "features": "seed",
    "score_over_root_batch": True, "repair": True, "gradient_penalty": "none",
    "critic_steps": 5, "average": 0.0,
}  # fmt: skip
SEED = BEFORE | {
    "critic_norm": "layer", "initialization": "xavier", "score_bound": "seed",
    "gradient_monitor": True,
}  # fmt: skip
SGD = optax.chain(optax.clip_by_global_norm(1e7), optax.sgd(1e-5, momentum=0.5))
TINY = {
    "generator_width": 8, "critic_width": 8, "count_width": 4, "event_noise": 2,
    "particle_noise": 2, "capacity": 6, "batch": 16, "events": 1000, "held_out": 500,
}  # fmt: skip


@functools.cache
def _drawn(config):
    def draw(key):
        return initial_parameters(Players(config, 4, 3, nnx.Rngs(params=key)))

    return jax.jit(draw, compiler_options=HASTY)


def initial_players(config, seed):
    """Return the parameters of a random seed."""
    return _drawn(config.model_copy(update={"batch": 1}))(jax.random.key(seed))


@functools.cache
def _scored(config):
    game = Game(config, 4, 3, 1)

    def score(params, batch, key):
        key_noise, key_count = jax.random.split(key)
        noise = draw_noise(config, len(batch.mask), key_noise)

        def told(generator):
            everyone = params | {"generator": generator}
            fakes = game.generate(everyone, batch, noise, key_count)
            critic = nnx.merge(game.graph, everyone).critic
            fake = critic(fakes.particles, fakes.mask, batch.condition)
            real = critic(batch.particles, batch.mask, batch.condition)
            return jnp.mean(fake.score), {
                "fake_particles": fakes.mask.sum(),
                "fake": fake.score,
                "unbounded": fake.unbounded,
                "real": real.score,
                "pooled_min": fake.pooled_min,
            }

        gradient, found = jax.grad(told, has_aux=True)(params["generator"])
        return found | {"generator_gradient": optax.tree.norm(gradient)}

    return jax.jit(score, compiler_options=HASTY)


def scores_of_fakes(config, bundles, seed):
    """Return what the first critic says of first fakes, and tells the generator."""
    batch = batch_at(bundles, config.batch, seed=seed, position=0)
    params = initial_players(config, seed)
    return jax.device_get(_scored(config)(params, batch, jax.random.key(seed + 100)))
