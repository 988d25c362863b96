"""The whole solver: pairs, query, clues, generated weights, recursion; described once.

It is told a query and a few demonstrations, and answers on the cells of the query. The
size of the answer is the size of the query; it is never looked up.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.arc import COLORS, PAD
from stabjax.models.rlan.cell_loss import squash_logits
from stabjax.models.rlan.clue_losses import clue_use
from stabjax.models.rlan.clues import ClueAttention, Clues
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.encoders import GridEncoder, Injector, PairEncoder
from stabjax.models.rlan.hyper_lora import HyperLora
from stabjax.models.rlan.relative import RelativeEncoding
from stabjax.models.rlan.solver import RecursiveSolver, mix_clues
from stabjax.models.rlan.turns import sizes

__all__ = ["Answer", "Solver", "Support"]


class Support(NamedTuple):
    """Encoded demonstrations.

    Attributes:
        features: Of every place of every pair.
        real: Places that hold a cell of a grid.
    """

    features: Float[Array, "rows pairs places width"]
    real: Bool[Array, "rows pairs places"]


class Answer(NamedTuple):
    """What the solver says about a batch of queries.

    Attributes:
        logits: Of every cell, in the dtype of the configuration.
        clues: Where it looked.
        use: How much each clue is used.
        lora_norm: Frobenius norms of the generated weights before the cap.
        context: What the demonstrations have in common.
    """

    logits: Array
    clues: Clues
    use: Float[Array, "rows clues"]
    lora_norm: Float[Array, "rows targets"]
    context: Float[Array, "rows width"]


class Solver(nnx.Module):
    """In-context solver of grid tasks.

    Attributes named as the groups a clip may name: ``pairs``, ``grid``, ``injector``,
    ``clues``, ``relative``, ``lora`` and ``solver``.
    """

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.side = config.grid
        self.clue_count = config.clue_count
        self.squashed = config.logit_guard != "sound"
        self.dtype = jnp.dtype(config.logits)
        self.pairs = PairEncoder(config, rngs)
        self.grid = GridEncoder(config, rngs)
        self.injector = Injector(config, rngs)
        self.clues = ClueAttention(config, rngs)
        self.relative = RelativeEncoding(config, rngs)
        self.lora = HyperLora(config, rngs)
        self.solver = RecursiveSolver(config, rngs)

    def encode(self, pairs: Int[Array, "batch pairs 2 cells"]) -> Support:
        """Encode demonstrations; absent ones are all `PAD`."""
        return Support(*self.pairs(pairs))

    def __call__(
        self,
        query: Int[Array, "rows cells"],
        support: Support,
        temperature: Float[Array, ""],
    ) -> Answer:
        """Answer each query from its demonstrations.

        Args:
            query: Colors; `PAD` outside the grid, which must hold a cell.
            support: What is shown; a pair whose ``real`` is False leaves no trace.
            temperature: Of the clue attention, > 0.
        """
        real = query != PAD
        tokens, shown = _flat(support)
        features = self.injector(self.grid(query), tokens, shown)
        context = self.lora.context(support.features, support.real)
        height, width = sizes(real, self.side)
        clues = self.clues(
            features,
            real & (query != 0),
            real,
            context,
            _complexity(query, real),
            temperature,
        )
        use = clue_use(clues.stop, self.clue_count)
        extent = jnp.stack([height, width], axis=1).astype(jnp.float32)
        seen = self.relative(features, clues.centroid, extent)
        lora = self.lora(context)
        logits = self.solver(mix_clues(seen, use), query, real, lora, tokens, shown)
        if self.squashed:
            logits = squash_logits(logits)
        return Answer(logits.astype(self.dtype), clues, use, lora.norm, context)


def _flat(
    support: Support,
) -> tuple[Float[Array, "rows tokens width"], Bool[Array, "rows tokens"]]:
    rows, _, _, width = support.features.shape
    return support.features.reshape(rows, -1, width), support.real.reshape(rows, -1)


def _complexity(
    query: Int[Array, "rows cells"], real: Bool[Array, "rows cells"]
) -> Float[Array, "rows 3"]:
    """Return share of colors, of foreground and of the canvas, each in [0, 1]."""
    colors = jnp.arange(COLORS)[None, None]
    found = jnp.any(query[:, :, None] == colors, axis=1)
    cells = jnp.sum(real, axis=1).astype(jnp.float32)
    black = jnp.sum(query == 0, axis=1).astype(jnp.float32)
    return jnp.stack(
        [
            jnp.mean(found.astype(jnp.float32), axis=1),
            1.0 - black / jnp.maximum(cells, 1.0),
            cells / query.shape[1],
        ],
        axis=1,
    )
