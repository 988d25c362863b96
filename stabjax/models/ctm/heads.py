"""What reads the core: colors of cells, the potential of the MCMC loss, predictions."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.models.attention import Attention
from stabjax.models.ctm.config import Config
from stabjax.models.ctm.data import COLORS

__all__ = ["CellHead", "FlatHead", "Potential", "PredictiveCoding", "make_head"]

_CHUNKS = 4  # levels of predictive coding


class FlatHead(nnx.Module):
    """One linear map from the squashed prediction to every cell's colors (the seed)."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        self.linear = nnx.Linear(config.readout, config.cells * COLORS, rngs=rngs)

    def __call__(
        self,
        predictions: Float[Array, "ticks batch readout"],
        tokens: Float[Array, "batch tokens width"],
        real: Bool[Array, "batch tokens"],
    ) -> Float[Array, "ticks batch cells colors"]:
        """Return the logits of every tick."""
        logits = self.linear(jnp.tanh(predictions))
        return logits.reshape(*logits.shape[:2], -1, COLORS)


class CellHead(nnx.Module):
    """Every query cell asks the tokens, its question shaped by the prediction."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.width
        self.cells = config.cells
        self.attention = Attention(
            width + config.readout, width, config.attention_heads, rngs
        )
        self.mix = nnx.Linear(2 * width + config.readout, 2 * width, rngs=rngs)
        self.norm = nnx.LayerNorm(2 * width, rngs=rngs)
        self.colors = nnx.Linear(2 * width, COLORS, rngs=rngs)

    def __call__(
        self,
        predictions: Float[Array, "ticks batch readout"],
        tokens: Float[Array, "batch tokens width"],
        real: Bool[Array, "batch tokens"],
    ) -> Float[Array, "ticks batch cells colors"]:
        """Return the logits of every tick."""
        ticks, batch, readout = predictions.shape
        keys, values = self.attention.project(tokens)
        cells = tokens[:, : self.cells]
        asked = jnp.concatenate(
            [
                jnp.broadcast_to(cells[None], (ticks, *cells.shape)),
                jnp.broadcast_to(
                    predictions[:, :, None], (ticks, batch, self.cells, readout)
                ),
            ],
            axis=-1,
        )
        answer = jax.vmap(self.attention.attend, in_axes=(0, None, None, None))(
            asked, keys, values, real
        )
        hidden = self.mix(jnp.concatenate([asked, answer], axis=-1))
        return self.colors(nnx.gelu(self.norm(hidden)))


def make_head(config: Config, rngs: nnx.Rngs) -> FlatHead | CellHead:
    """Build the output head ``config`` names."""
    return (FlatHead if config.output_head == "flat" else CellHead)(config, rngs)


class Potential(nnx.Module):
    """Three-layer MLP from the last prediction to the potential theta.

    ``per_cell`` values belong to a cell: one number for the seed's ordinal colors,
    one per color for one-hot cells.
    """

    def __init__(self, config: Config, per_cell: int, rngs: nnx.Rngs):
        hidden = config.energy_hidden
        self.per_cell = per_cell
        self.first = nnx.Linear(config.readout, hidden, rngs=rngs)
        self.second = nnx.Linear(hidden, hidden, rngs=rngs)
        self.last = nnx.Linear(hidden, config.cells * per_cell, rngs=rngs)
        if per_cell > 1:
            self.coupling = nnx.Param(
                config.coupling * jnp.eye(COLORS, dtype=jnp.float32)
            )

    def __call__(
        self, prediction: Float[Array, "batch readout"]
    ) -> Float[Array, "batch cells per_cell"]:
        """Return theta."""
        hidden = nnx.relu(self.first(prediction))
        theta = self.last(nnx.relu(self.second(hidden)))
        return theta.reshape(len(prediction), -1, self.per_cell)

    def symmetric_coupling(self) -> Float[Array, "colors colors"]:
        """Return the attraction between colors of neighboring cells."""
        coupling = self.coupling[...]
        return 0.5 * (coupling + coupling.T)


class PredictiveCoding(nnx.Module):
    """Each quarter of the neurons is predicted, linearly, from the next one."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        part = config.neurons // _CHUNKS
        for number in range(_CHUNKS - 1):
            setattr(self, f"level_{number}", nnx.Linear(part, part, rngs=rngs))

    def __call__(self, z: Float[Array, "batch neurons"]) -> Float[Array, ""]:
        """Return the mean squared error; no gradient reaches the predicted quarter."""
        chunks = jnp.split(z, _CHUNKS, axis=-1)
        errors = [
            jnp.mean(
                (
                    getattr(self, f"level_{n}")(chunks[n + 1])
                    - jax.lax.stop_gradient(chunks[n])
                )
                ** 2
            )
            for n in range(_CHUNKS - 1)
        ]
        return jnp.mean(jnp.stack(errors))
