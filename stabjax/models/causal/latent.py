"""The seed's network: three encoders, a decoder of their codes, and a graph beside it.

The graph is a parameter of its own. Neither the codes nor the decoder read it, so no
loss on the reconstruction can train it; that is the failure shown here, and kept.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from stabjax.models.causal.config import Config

__all__ = ["Answer", "LatentModel", "describe", "keep_largest", "kept_graph"]

ENCODERS = ("signal", "noise", "bias")


class Answer(NamedTuple):
    """What the network makes of a batch of windows.

    Attributes:
        reconstruction: In the units of the input.
        codes: Of the three encoders side by side, one row per time step.
        adjacency: Of the graph, in [0, 1]; [i, j] is the edge from i to j.
    """

    reconstruction: Float[Array, "batch time d"]
    codes: Float[Array, "rows codes"]
    adjacency: Float[Array, "d d"]


def keep_largest(logits: Float[Array, "d d"], share: float) -> Float[Array, "d d"]:
    """Keep the sigmoid of the largest logits and set all others to zero.

    ``max(1, int(share d^2))`` entries are kept, the diagonal among the candidates, as
    in the seed.

    Args:
        logits: Of the edges.
        share: Of the entries to keep, in (0, 1].

    Gradient:
        That of the sigmoid at what is kept; zero elsewhere, so that what is not kept
        at the start can only come in if weight decay moves it.
    """
    count = max(1, int(share * logits.size))
    largest, places = jax.lax.top_k(logits.reshape(-1), count)
    kept = jnp.zeros((logits.size,), logits.dtype).at[places].set(nnx.sigmoid(largest))
    return kept.reshape(logits.shape)


def kept_graph(config: Config, logits: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Return the adjacency of some logits, all of it or its largest entries."""
    share = config.kept_share if config.adjacency == "top_k" else 1.0
    return keep_largest(logits, share)


def _linear(inputs: int, outputs: int, rngs: nnx.Rngs) -> nnx.Linear:
    """Return a linear layer with the initialization of `torch.nn.Linear`."""
    bound = inputs**-0.5
    uniform = lambda key, shape, dtype: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )
    return nnx.Linear(
        inputs, outputs, kernel_init=uniform, bias_init=uniform, rngs=rngs
    )


class _TwoLayers(nnx.Module):
    """Linear, ReLU, linear."""

    def __init__(self, inputs: int, hidden: int, outputs: int, rngs: nnx.Rngs):
        self.enter = _linear(inputs, hidden, rngs)
        self.leave = _linear(hidden, outputs, rngs)

    def __call__(self, x: Float[Array, "rows inputs"]) -> Float[Array, "rows outputs"]:
        return self.leave(nnx.relu(self.enter(x)))


class _Encoders(nnx.Module):
    """One code each for signal, noise and bias; nothing but their names differs."""

    def __init__(self, config: Config, nodes: int, rngs: nnx.Rngs):
        for name in ENCODERS:
            setattr(self, name, _TwoLayers(nodes, config.hidden, config.latent, rngs))

    def __call__(self, x: Float[Array, "rows d"]) -> Float[Array, "rows codes"]:
        return jnp.concatenate([getattr(self, name)(x) for name in ENCODERS], axis=1)


class _Graph(nnx.Module):
    """The logits of the adjacency, normal with deviation 0.1 at the start."""

    def __init__(self, config: Config, nodes: int, rngs: nnx.Rngs):
        self.config = config
        draw = jax.random.normal(rngs.params(), (nodes, nodes), jnp.float32)
        self.logits = nnx.Param(0.1 * draw)

    def __call__(self) -> Float[Array, "d d"]:
        return kept_graph(self.config, self.logits[...])


class LatentModel(nnx.Module):
    """The seed's network, one time step at a time."""

    def __init__(self, config: Config, nodes: int, rngs: nnx.Rngs):
        self.graph = _Graph(config, nodes, rngs)
        self.encoders = _Encoders(config, nodes, rngs)
        codes = len(ENCODERS) * config.latent
        self.decoder = _TwoLayers(codes, config.hidden, nodes, rngs)

    def __call__(self, x: Float[Array, "batch time d"]) -> Answer:
        """Encode, decode, and return the graph beside it."""
        codes = self.encoders(x.reshape(-1, x.shape[-1]))
        return Answer(self.decoder(codes).reshape(x.shape), codes, self.graph())


def describe(config: Config, nodes: int) -> Callable[[], LatentModel]:
    """Return a function that describes the network, with parameters of seed 0."""
    return lambda: LatentModel(config, nodes, nnx.Rngs(0))
