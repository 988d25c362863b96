"""Generated events for held-out conditions, and how far they are from the real ones."""

import functools
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array

from stabjax.models.gan.config import Config
from stabjax.models.gan.counts import predict
from stabjax.models.gan.data import Data
from stabjax.models.gan.events import Events
from stabjax.models.gan.generator import draw_noise, slots
from stabjax.models.gan.metrics import score_events
from stabjax.models.gan.model import describe
from stabjax.models.modules import graph_of

__all__ = ["evaluate", "generate_events", "judged_parameters"]


def judged_parameters(params: Any, average: Any) -> Any:
    """Return the parameters that are judged: those of the averaged generator, if any.

    Args:
        params: Of the train state.
        average: Of the model state; () without an average.
    """
    return params | {"generator": average} if average != () else params


def generate_events(
    config: Config, data: Data, params: Any, *, seed: int = 0, chunk: int = 4000
) -> Events:
    """Generate an event for every held-out condition, counts from the count head.

    Args:
        config: The model's configuration.
        data: The conditions, and the units to return to.
        params: Of the players.
        seed: Draws counts and noise.
        chunk: Events per call; the last chunk is filled up, so one program serves.

    Returns:
        Events in the units of the data.
    """
    condition = data.scaling.scale(data.real).condition
    rows = len(condition)
    chunk = min(chunk, rows)
    parts = []
    for number, first in enumerate(range(0, rows, chunk)):
        taken = np.minimum(np.arange(first, first + chunk), rows - 1)
        key = jax.random.fold_in(jax.random.key(seed), number)
        made = _generate(config, data.minimum, params, condition[taken], key)
        parts.append(jax.device_get(made))
    features, mask = (np.concatenate(x)[:rows] for x in zip(*parts, strict=True))
    return Events(data.scaling.restore(features, mask), mask, data.real.condition)


def evaluate(config: Config, data: Data, params: Any) -> dict[str, float]:
    """Return the scores of `metrics.score_events`, and the ratio to the floor.

    ``w1_over_floor`` is the mean W1 of the particles' features over that of real
    events against real ones.
    """
    generated = generate_events(config, data, params)
    scores = score_events(
        generated, data.real, data.reference, data.schema, expected=data.expected
    )
    ratio = scores["w1_particles"] / scores["w1_particles_floor"]
    return scores | {"w1_over_floor": ratio}


@functools.partial(jax.jit, static_argnums=(0, 1))
def _generate(
    config: Config, minimum: int, params: Any, condition: Array, key: Array
) -> tuple[Array, Array]:
    """Return features in the players' units, and the mask."""
    conditions = condition.shape[1]
    features = params["generator"]["particle_out"]["bias"].shape[0]
    players = nnx.merge(graph_of(describe(config, conditions, features)), params)
    key_count, key_noise = jax.random.split(key)
    number = predict(config, players.count(condition), key_count, minimum=minimum)
    noise = draw_noise(config, len(condition), key_noise)
    particles = players.generator(condition, number.log_count, noise)
    return particles, slots(number.count, config.capacity)
