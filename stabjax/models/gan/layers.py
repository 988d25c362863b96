"""The linear maps of both players, in the seed's initialization or its fix."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stabjax.models.gan.config import Config

__all__ = [
    "EventLinear",
    "layer_norm",
    "leaky_relu",
    "linear",
    "linear_map",
    "singular_value",
]

_POWER_STEPS = 12  # of the power iteration


def linear(config: Config, inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Return a linear layer, initialized as ``config`` says.

    ``torch``: weights and biases U(-b, b) with b = inputs**-0.5. ``xavier``: normal
    weights of variance 2 / (inputs + outputs), zero biases.
    """
    kernel, bias = _initializers(config, inputs)
    return nnx.Linear(inputs, outputs, kernel_init=kernel, bias_init=bias, rngs=rngs)


def layer_norm(width: int, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """Return a LayerNorm with torch's epsilon."""
    return nnx.LayerNorm(width, epsilon=1e-5, rngs=rngs)


def leaky_relu(x: Array) -> Array:
    """Return ``max(x, 0.2 x)``."""
    return jnp.where(x >= 0, x, 0.2 * x)


class EventLinear(nnx.Module):
    """A linear layer on a particle beside its event, which is not copied per particle.

    ``[particle, event] W + b``, computed as ``particle W_p + (event W_e + b)``.
    """

    def __init__(
        self, config: Config, particle: int, event: int, outputs: int, rngs: nnx.Rngs
    ):
        self.particle = particle
        self.linear = linear(config, particle + event, outputs, rngs)

    def __call__(
        self,
        particles: Float[Array, "events capacity particle"],
        events: Float[Array, "events event"],
        scale: Float[Array, ""] | None = None,
    ) -> Float[Array, "events capacity outputs"]:
        """Apply the layer, its matrix multiplied by ``scale``."""
        kernel = self.linear.kernel[...]
        kernel = kernel if scale is None else kernel * scale
        of_event = events @ kernel[self.particle :] + _bias(self.linear)[None]
        return particles @ kernel[: self.particle] + of_event[:, None]


def linear_map(
    layer: nnx.Linear, x: Float[Array, "*rows inputs"], scale: Float[Array, ""]
) -> Float[Array, "*rows outputs"]:
    """Apply a linear layer, its matrix multiplied by ``scale``."""
    bias = _bias(layer).reshape((1,) * (x.ndim - 1) + (-1,))
    return x @ (layer.kernel[...] * scale) + bias


def singular_value(kernel: Float[Array, "inputs outputs"]) -> Float[Array, ""]:
    """Return the largest singular value, by power iteration from a fixed start.

    Gradient:
        That of ``u^T W v`` with both vectors held, as in spectral normalization.

    Source:
        Miyato et al. (2018), arXiv:1802.05957, without a state between steps.
    """
    fixed = jax.lax.stop_gradient(kernel)
    start = jax.random.normal(jax.random.key(0), kernel.shape[1:])

    def turn(_: Any, v: Array) -> Array:
        return _unit(fixed.T @ _unit(fixed @ v))

    v = jax.lax.fori_loop(0, _POWER_STEPS, turn, _unit(start))
    u = _unit(fixed @ v)
    return u @ kernel @ v


def _bias(layer: nnx.Linear) -> Array:
    if layer.bias is None:
        raise TypeError("gan: every linear layer has a bias, got one without.")
    return layer.bias[...]


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x), 1e-12)


def _initializers(config: Config, inputs: int) -> tuple[Any, Any]:
    if config.initialization == "xavier":
        return nnx.initializers.xavier_normal(), nnx.initializers.zeros
    bound = 1.0 / math.sqrt(inputs)

    def bias(key: Array, shape: Any, dtype: Any = jnp.float32, **_: Any) -> Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    kernel = nnx.initializers.variance_scaling(1.0 / 3.0, "fan_in", "uniform")
    return kernel, bias
