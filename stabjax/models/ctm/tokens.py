"""Grids as tokens: color, position, and where a cell stands in the puzzle."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import COLORS, PAD

__all__ = ["GridTokens"]


class GridTokens(nnx.Module):
    """Embeds a query grid and what tells the task: pairs, or the puzzle's name."""

    def __init__(self, config: Config, puzzles: int, rngs: nnx.Rngs):
        def table(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, config.width, rngs=rngs)

        self.conditioning = config.conditioning
        self.query_color = table(COLORS + 1)
        self.position = table(config.cells)
        if config.conditioning == "demos":
            self.input_color = table(COLORS + 1)
            self.output_color = table(COLORS + 1)
        if config.conditioning == "puzzle":
            self.puzzle = table(puzzles)
        self.mix = nnx.Linear(config.width, config.width, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)

    def __call__(
        self,
        query: Int[Array, "batch cells"],
        demos: Int[Array, "batch demos 2 cells"],
        puzzle: Int[Array, " batch"],
    ) -> tuple[Float[Array, "batch tokens width"], Bool[Array, "batch tokens"]]:
        """Return the tokens, the query's cells first, and which of them are real.

        A demonstration is one token per cell: what it was and what it became.
        """
        place: Any = self.position.embedding[...]
        tokens = [self.query_color(query) + place[None]]
        real = [query != PAD]
        if self.conditioning == "demos":
            before, after = demos[:, :, 0], demos[:, :, 1]
            pair = self.input_color(before) + self.output_color(after)
            pair = pair + place[None, None]
            tokens.append(pair.reshape(len(query), -1, pair.shape[-1]))
            real.append((before != PAD).reshape(len(query), -1))
        if self.conditioning == "puzzle":
            tokens.append(self.puzzle(puzzle)[:, None])
            real.append(jnp.ones((len(query), 1), bool))
        joined = jnp.concatenate(tokens, axis=1)
        joined = self.norm(joined + nnx.gelu(self.mix(joined)))
        return joined, jnp.concatenate(real, axis=1)
