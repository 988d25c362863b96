"""Neuron-level models: every neuron has its own small network over its own past."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

__all__ = ["NeuronModels", "SuperLinear"]


class SuperLinear(nnx.Module):
    """One linear map per neuron: ``out[b, n] = in[b, n] @ weight[:, :, n] + bias[n]``.

    Weights start uniform in ``+-1 / sqrt(inputs + outputs)``.
    """

    def __init__(self, inputs: int, outputs: int, neurons: int, rngs: nnx.Rngs):
        reach = (inputs + outputs) ** -0.5
        shape = (inputs, outputs, neurons)
        self.weight = nnx.Param(
            jax.random.uniform(rngs.params(), shape, jnp.float32, -reach, reach)
        )
        self.bias = nnx.Param(jnp.zeros((neurons, outputs), jnp.float32))

    def __call__(
        self, x: Float[Array, "batch neurons inputs"]
    ) -> Float[Array, "batch neurons outputs"]:
        """Map every neuron's inputs with its own weights."""
        mixed = jnp.einsum("bni,ion->bno", x, self.weight[...])
        return mixed + self.bias[...][None]


class NeuronModels(nnx.Module):
    """Two gated `SuperLinear` layers: the trace of a neuron to its next state."""

    def __init__(self, memory: int, hidden: int, neurons: int, rngs: nnx.Rngs):
        self.inner = SuperLinear(memory, 2 * hidden, neurons, rngs)
        self.outer = SuperLinear(hidden, 2, neurons, rngs)

    def __call__(
        self, trace: Float[Array, "batch neurons memory"]
    ) -> Float[Array, "batch neurons"]:
        """Return the post-activation of every neuron."""
        return _gated(self.outer(_gated(self.inner(trace))))[..., 0]


def _gated(x: Float[Array, "*lead twice"]) -> Float[Array, "*lead half"]:
    """Gate the first half by the sigmoid of the second (GLU)."""
    value, gate = jnp.split(x, 2, axis=-1)
    return value * nnx.sigmoid(gate)
