"""The core of the continuous thought machine: ticks of thought over fixed tokens.

    o   = attention(action synchronization of z)
    a   = synapse([o, z]) + P z
    A   = the last `memory` pre-activations a, per neuron
    z   = neuron models (A)
    out = output synchronization of z

``P`` (plastic synapses) is an input, never a parameter: no optimizer moves it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.models.attention import Attention
from stabjax.models.ctm.config import Config
from stabjax.models.ctm.neurons import NeuronModels
from stabjax.models.ctm.synapse import make_synapse
from stabjax.models.ctm.synchronization import Synchronization, SynchronizationState

__all__ = ["Core", "Thought", "Ticking"]


class Ticking(NamedTuple):
    """What a tick hands to the next."""

    z: Float[Array, "batch neurons"]
    trace: Float[Array, "batch neurons memory"]
    action: SynchronizationState
    output: SynchronizationState


class Thought(NamedTuple):
    """What a thought leaves behind."""

    outputs: Float[Array, "ticks batch pairs"]
    z: Float[Array, "batch neurons"]
    trace: Float[Array, "batch neurons memory"]


class Core(nnx.Module):
    """Neurons with their own models, driven by their own synchronization."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.ticks = config.ticks
        self.attention = Attention(
            config.pairs, config.width, config.attention_heads, rngs
        )
        self.synapse = make_synapse(config, rngs)
        self.neurons = NeuronModels(
            config.memory, config.neuron_hidden, config.neurons, rngs
        )
        self.action = Synchronization(config, use=0)
        self.output = Synchronization(config, use=1)
        reach = config.neurons**-0.5
        self.first_z = nnx.Param(
            jax.random.uniform(
                rngs.params(), (config.neurons,), jnp.float32, -reach, reach
            )
        )
        reach = (config.neurons + config.memory) ** -0.5
        self.first_trace = nnx.Param(
            jax.random.uniform(
                rngs.params(),
                (config.neurons, config.memory),
                jnp.float32,
                -reach,
                reach,
            )
        )

    def start(self, batch: int) -> Ticking:
        """Return the learned first state, once per row."""
        z, trace = self.first_z[...], self.first_trace[...]
        return Ticking(
            z=jnp.broadcast_to(z[None], (batch, *z.shape)),
            trace=jnp.broadcast_to(trace[None], (batch, *trace.shape)),
            action=self.action.start(batch),
            output=self.output.start(batch),
        )

    def tick(
        self,
        state: Ticking,
        keys: Float[Array, "batch tokens heads part"],
        values: Float[Array, "batch tokens heads part"],
        real: Bool[Array, "batch tokens"],
        plastic: Float[Array, "neurons neurons"],
    ) -> tuple[Ticking, Float[Array, "batch pairs"]]:
        """Think once; return the output synchronization of this tick."""
        action, question = self.action(state.action, state.z)
        seen = self.attention.attend(question[:, None], keys, values, real)[:, 0]
        pre = self.synapse(jnp.concatenate([seen, state.z], axis=-1))
        pre = pre + state.z @ plastic.T
        trace = jnp.concatenate([state.trace[:, :, 1:], pre[:, :, None]], axis=-1)
        z = self.neurons(trace)
        output, synchronized = self.output(state.output, z)
        return Ticking(z, trace, action, output), synchronized

    def clipped_share(self) -> Float[Array, ""]:
        """Return the share of synchronization decays whose gradient is zero."""
        return 0.5 * (self.action.clipped_share() + self.output.clipped_share())

    def __call__(
        self,
        tokens: Float[Array, "batch tokens width"],
        real: Bool[Array, "batch tokens"],
        plastic: Float[Array, "neurons neurons"],
    ) -> Thought:
        """Think for all ticks; one tick is compiled, whatever their number."""
        keys, values = self.attention.project(tokens)

        def tick(
            state: Ticking, _: None
        ) -> tuple[Ticking, Float[Array, "batch pairs"]]:
            return self.tick(state, keys, values, real, plastic)

        last, outputs = jax.lax.scan(
            tick, self.start(len(tokens)), None, length=self.ticks
        )
        return Thought(outputs, last.z, last.trace)
