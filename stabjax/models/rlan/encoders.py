"""Grids and demonstration pairs as features, and how a query meets its pairs."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.arc import COLORS, PAD
from stabjax.models.attention import Attention
from stabjax.models.rlan.blocks import Block, GroupNorm, sinusoids
from stabjax.models.rlan.config import Config

__all__ = ["GridEncoder", "Injector", "PairEncoder", "pooling"]


class GridEncoder(nnx.Module):
    """Color and sinusoidal position of every cell of a query."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        half = config.width // 2
        self.side, self.half = config.grid, half
        self.color = nnx.Embed(COLORS + 1, half, rngs=rngs)
        self.mix = nnx.Linear(config.width, config.width, rngs=rngs)
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)

    def __call__(
        self, query: Int[Array, "rows cells"]
    ) -> Float[Array, "rows cells width"]:
        """Return features of every cell."""
        color = self.color(query)
        place = jnp.asarray(sinusoids(self.side, self.half))[None]
        place = jnp.broadcast_to(place, color.shape)
        return self.norm(self.mix(jnp.concatenate([color, place], axis=-1)))


class PairEncoder(nnx.Module):
    """What a pair says: its input, its output and the difference, cell by cell.

    Each pair by itself, so that one taken away leaves no trace.
    """

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.width
        self.side, self.places = config.grid, config.support_side
        self.color = nnx.Embed(COLORS + 1, width, rngs=rngs)
        self.place = nnx.Embed(config.cells, width, rngs=rngs)
        self.mix = nnx.Linear(width, width, rngs=rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.first = Block(config, width, rngs)
        self.second = Block(config, width, rngs)
        self.compare = nnx.Linear(3 * width, width, rngs=rngs)
        self.compare_norm = GroupNorm(config, rngs)
        self.last = Block(config, width, rngs)

    def __call__(
        self, pairs: Int[Array, "batch pairs 2 cells"]
    ) -> tuple[
        Float[Array, "batch pairs places width"], Bool[Array, "batch pairs places"]
    ]:
        """Return features of every place and whether it holds a cell of a grid."""
        batch, number, _, cells = pairs.shape
        grids = pairs.reshape(batch * number * 2, cells)
        real = grids != PAD
        x = self.color(grids) + self.place.embedding[...][None]
        x = self.norm(self.mix(x))
        x = self.second(self.first(x, real), real)
        x = x.reshape(batch * number, 2, cells, -1)
        before, after = x[:, 0], x[:, 1]
        # Input and output have the same size.
        real = real.reshape(batch * number, 2, cells)[:, 0]
        joined = jnp.concatenate([before, after, after - before], axis=-1)
        joined = nnx.gelu(self.compare_norm(self.compare(joined), real))
        joined, real = self._pooled(self.last(joined, real), real)
        return (
            joined.reshape(batch, number, *joined.shape[1:]),
            real.reshape(batch, number, -1),
        )

    def _pooled(
        self, x: Float[Array, "rows cells width"], real: Bool[Array, "rows cells"]
    ) -> tuple[Float[Array, "rows places width"], Bool[Array, "rows places"]]:
        """Average what is real within each place of a coarser canvas."""
        if self.side <= self.places:
            return x, real
        share = jnp.asarray(pooling(self.side, self.places))
        counted = real.astype(jnp.float32) @ share
        summed = jnp.einsum("rcw,cp->rpw", jnp.where(real[:, :, None], x, 0.0), share)
        return summed / jnp.maximum(counted, 1.0)[:, :, None], counted > 0


def pooling(side: int, places: int) -> np.ndarray:
    """Return which cells of a canvas each place of a coarser one takes in.

    Row r of G belongs to row floor(r P / G) of P, so that every place has its cells.

    Args:
        side: Side of the canvas [cells].
        places: Side of the coarser canvas, < ``side``.

    Returns:
        Zeros and ones, (cells, places).
    """
    line = np.arange(side) * places // side
    place = (line[:, None] * places + line[None, :]).reshape(-1)
    return np.eye(places * places, dtype=np.float32)[place]


class Injector(nnx.Module):
    """Lets every cell of the query look at every place of its demonstrations."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.attention = Attention(
            config.width, config.width, config.attention_heads, rngs
        )
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)

    def __call__(
        self,
        features: Float[Array, "rows cells width"],
        tokens: Float[Array, "rows tokens width"],
        real: Bool[Array, "rows tokens"],
    ) -> Float[Array, "rows cells width"]:
        """Return the features with what they found."""
        keys, values = self.attention.project(tokens)
        found = self.attention.attend(features, keys, values, real)
        return self.norm(features + found)
