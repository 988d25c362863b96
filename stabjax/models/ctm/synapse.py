"""The synapse: mixes what the core attends to with its last state, for all neurons."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from stabjax.models.ctm.config import Config

__all__ = ["MlpSynapse", "UNetSynapse", "make_synapse"]

_NARROWEST = 16  # width at the bottom of the U


class _Block(nnx.Module):
    """Linear map, layer normalization, SiLU."""

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, outputs, rngs=rngs)
        self.norm = nnx.LayerNorm(outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*lead inputs"]
    ) -> Float[Array, "*lead outputs"]:
        return nnx.silu(self.norm(self.linear(x)))


class UNetSynapse(nnx.Module):
    """Narrows in equal steps to 16 and widens again, with normalized skips.

    Source:
        Darlow et al. (2025), Continuous Thought Machines, arXiv 2505.05522.
    """

    def __init__(self, inputs: int, neurons: int, depth: int, rngs: nnx.Rngs):
        narrow = min(_NARROWEST, neurons)
        self.widths = tuple(int(w) for w in np.linspace(neurons, narrow, depth))
        steps = list(zip(self.widths[:-1], self.widths[1:], strict=True))
        self.steps = len(steps)
        self.enter = _Block(inputs, neurons, rngs)
        for number, (wide, thin) in enumerate(steps):
            # Attributes by name, not a list: leaf paths stay readable.
            setattr(self, f"down_{number}", _Block(wide, thin, rngs))
            setattr(self, f"up_{number}", _Block(thin, wide, rngs))
            setattr(self, f"skip_{number}", nnx.LayerNorm(wide, rngs=rngs))

    def __call__(
        self, x: Float[Array, "*lead inputs"]
    ) -> Float[Array, "*lead neurons"]:
        """Return one pre-activation per neuron."""
        x = self.enter(x)
        kept = []
        for number in range(self.steps):
            kept.append(x)
            x = getattr(self, f"down_{number}")(x)
        for number in reversed(range(self.steps)):
            x = getattr(self, f"up_{number}")(x) + kept[number]
            x = getattr(self, f"skip_{number}")(x)
        return x


class MlpSynapse(nnx.Module):
    """One gated linear layer and a layer normalization."""

    def __init__(self, inputs: int, neurons: int, rngs: nnx.Rngs):
        self.linear = nnx.Linear(inputs, 2 * neurons, rngs=rngs)
        self.norm = nnx.LayerNorm(neurons, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*lead inputs"]
    ) -> Float[Array, "*lead neurons"]:
        """Return one pre-activation per neuron."""
        value, gate = jnp.split(self.linear(x), 2, axis=-1)
        return self.norm(value * nnx.sigmoid(gate))


def make_synapse(config: Config, rngs: nnx.Rngs) -> UNetSynapse | MlpSynapse:
    """Build the synapse ``config`` names; it reads attention and last state."""
    inputs = config.width + config.neurons
    if config.synapse == "mlp":
        return MlpSynapse(inputs, config.neurons, rngs)
    return UNetSynapse(inputs, config.neurons, config.synapse_depth, rngs)
