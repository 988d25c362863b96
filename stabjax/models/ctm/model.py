"""The whole machine: tokens, core, readout and the heads, described once."""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from stabjax.models.ctm.config import Config
from stabjax.models.ctm.core import Core
from stabjax.models.ctm.data import COLORS
from stabjax.models.ctm.diffusion import Denoiser
from stabjax.models.ctm.heads import Potential, PredictiveCoding, make_head
from stabjax.models.ctm.tokens import GridTokens

__all__ = ["Answer", "Machine"]


class Answer(NamedTuple):
    """What the machine says about a batch."""

    logits: Float[Array, "ticks batch cells colors"]
    prediction: Float[Array, "batch readout"]  # of the last tick
    thought: Float[Array, "batch features"]  # what conditions the denoiser
    z: Float[Array, "batch neurons"]
    trace: Float[Array, "batch neurons memory"]


class Machine(nnx.Module):
    """Continuous thought machine on grids.

    Attributes named as the groups a clip may name: ``tokens``, ``core``, ``readout``,
    ``head``, ``denoiser``, ``predictive`` and ``mcmc``.
    """

    def __init__(self, config: Config, puzzles: int, rngs: nnx.Rngs):
        self.tokens = GridTokens(config, puzzles, rngs)
        self.core = Core(config, rngs)
        self.readout = nnx.Linear(config.pairs, config.readout, rngs=rngs)
        self.head = make_head(config, rngs)
        self.denoiser = Denoiser(config, rngs)
        self.predictive = PredictiveCoding(config, rngs)
        if config.mcmc_loss != "none":
            per_cell = COLORS if config.mcmc_loss == "sound" else 1
            self.mcmc = Potential(config, per_cell, rngs)

    def __call__(
        self,
        query: Int[Array, "batch cells"],
        demos: Int[Array, "batch demos 2 cells"],
        puzzle: Int[Array, " batch"],
        plastic: Float[Array, "neurons neurons"],
    ) -> Answer:
        """Think about each query, with the fast weights ``plastic``."""
        tokens, real = self.tokens(query, demos, puzzle)
        # Padding is a token nobody attends to; the first cell is always real.
        thought = self.core(tokens, real, plastic)
        predictions = self.readout(thought.outputs)
        logits = self.head(predictions, tokens, real)
        features = (thought.outputs[-1], thought.z, predictions[-1])
        return Answer(
            logits=logits,
            prediction=predictions[-1],
            thought=jnp.concatenate(features, axis=-1),
            z=thought.z,
            trace=thought.trace,
        )
