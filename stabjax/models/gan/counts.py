"""How many particles an event has: the seed's rounded head, and one that is drawn."""

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from stabjax.losses import soft_clamp
from stabjax.models.gan.config import Config
from stabjax.models.gan.layers import linear

__all__ = [
    "CountHead",
    "Predicted",
    "count_log_probability",
    "draw_count",
    "log_mse",
    "negative_log_likelihood",
    "predict",
    "rounded_count",
    "told",
]

_LARGEST = 12.0  # of the log of mean and dispersion, bounded smoothly


class CountHead(nnx.Module):
    """From a condition to what the law of the count is made of.

    The seed's layers, conditions-64-128-64-outputs with ELU. One output is
    log10(count + 1); two are the logs of mean and dispersion.
    """

    def __init__(self, config: Config, conditions: int, rngs: nnx.Rngs):
        width = config.count_width
        outputs = 1 if config.count_head == "log_mse" else 2
        sizes = (conditions, width, 2 * width, width, outputs)
        self.layers = nnx.List(
            linear(config, a, b, rngs) for a, b in itertools.pairwise(sizes)
        )

    def __call__(
        self, condition: Float[Array, "events conditions"]
    ) -> Float[Array, "events outputs"]:
        """Return the outputs of each event."""
        *hidden, last = self.layers
        for layer in hidden:
            condition = nnx.elu(layer(condition))
        return last(condition)


class Predicted(NamedTuple):
    """A count that the head says.

    Attributes:
        count: In [0, capacity].
        log_count: log10(count + 1) as the generator is told it.
        overfull: Events that asked for more than the capacity.
        repaired: Outputs replaced because they were not finite.
    """

    count: Int[Array, " events"]
    log_count: Float[Array, " events"]
    overfull: Float[Array, ""]
    repaired: Float[Array, ""]


def rounded_count(
    outputs: Float[Array, "events 1"], *, capacity: int, repair: bool
) -> Predicted:
    """Return ``round(10**m - 1)``, at least zero, as the seed does.

    Gradient:
        None through the count; one through ``log_count``.
    """
    log_count = outputs[:, 0]
    broken = ~jnp.isfinite(log_count)
    if repair:
        log_count = jnp.where(broken, 0.0, log_count)
    number = jnp.power(10.0, log_count) - 1.0
    if repair:
        number = jnp.nan_to_num(number, nan=0.0, posinf=0.0, neginf=0.0)
    number = jnp.round(jnp.maximum(number, 0.0))
    # Casting a float beyond int32 is undefined: the comparison is done before.
    count = jnp.minimum(number, float(capacity)).astype(jnp.int32)
    over = jnp.sum(number > capacity, dtype=jnp.float32)
    repaired = jnp.sum(broken, dtype=jnp.float32)
    return Predicted(
        count, log_count, over, repaired if repair else jnp.zeros_like(over)
    )


def log_mse(
    outputs: Float[Array, "events 1"], count: Int[Array, " events"]
) -> Float[Array, ""]:
    """Return ``mean((m - log10(count + 1))**2)``.

    The geometric mean of count + 1 minimizes it, which is below the mean.
    """
    target = jnp.log10(count.astype(jnp.float32) + 1.0)
    return jnp.mean((outputs[:, 0] - target) ** 2)


def count_log_probability(
    outputs: Float[Array, "events 2"], *, minimum: int, capacity: int
) -> Float[Array, "events counts"]:
    """Return the log-probability of every count from 0 to ``capacity``.

    The negative binomial of mean m and dispersion r (variance m + m**2 / r; a Poisson
    law as r grows), restricted to [minimum, capacity]:
    ``log p(k) = k log m - log k! + sum_{j<k} log((r + j) / (r + m)) + constant``.
    The sum replaces a difference of log-gammas, which cancels for large r.

    Args:
        outputs: Logs of m and r; bounded smoothly to [-12, 12].
        minimum: Smallest count an event can have, in [0, capacity].
        capacity: Largest.

    Returns:
        Log-probabilities; -inf below ``minimum``.
    """
    log_mean, log_dispersion = jnp.moveaxis(soft_clamp(outputs, scale=_LARGEST), -1, 0)
    mean, dispersion = jnp.exp(log_mean)[:, None], jnp.exp(log_dispersion)[:, None]
    below = jnp.arange(capacity, dtype=jnp.float32)[None]
    terms = jnp.log1p((below - mean) / (dispersion + mean))
    sums = jnp.cumsum(jnp.pad(terms, ((0, 0), (1, 0))), axis=1)
    count = jnp.arange(capacity + 1, dtype=jnp.float32)[None]
    logits = count * log_mean[:, None] - jax.lax.lgamma(count + 1.0) + sums
    logits = jnp.where(count < minimum, -jnp.inf, logits)
    return jax.nn.log_softmax(logits, axis=1)


def negative_log_likelihood(
    outputs: Float[Array, "events 2"],
    count: Int[Array, " events"],
    *,
    minimum: int,
    capacity: int,
) -> Float[Array, ""]:
    """Return the mean of ``-log p(count)`` [nats]; counts lie in the range."""
    table = count_log_probability(outputs, minimum=minimum, capacity=capacity)
    return -jnp.mean(jnp.take_along_axis(table, count[:, None], axis=1))


def draw_count(
    outputs: Float[Array, "events 2"],
    key: Key[Array, ""],
    *,
    minimum: int,
    capacity: int,
) -> Int[Array, " events"]:
    """Draw a count for each event."""
    table = count_log_probability(outputs, minimum=minimum, capacity=capacity)
    return jax.random.categorical(key, table, axis=1)


def predict(
    config: Config,
    outputs: Float[Array, "events outputs"],
    key: Key[Array, ""],
    *,
    minimum: int,
) -> Predicted:
    """Return the count of each event as ``config`` has the head say it.

    Args:
        config: Which head.
        outputs: Of the head.
        key: Draws the counts of the negative binomial.
        minimum: Smallest count of the negative binomial.
    """
    capacity = config.capacity
    if config.count_head == "log_mse":
        return rounded_count(outputs, capacity=capacity, repair=config.repair)
    count = draw_count(outputs, key, minimum=minimum, capacity=capacity)
    return told(count)


def told(count: Int[Array, " events"]) -> Predicted:
    """Return a count that is known, as a prediction."""
    nothing = jnp.zeros((), jnp.float32)
    return Predicted(
        count, jnp.log10(count.astype(jnp.float32) + 1.0), nothing, nothing
    )
