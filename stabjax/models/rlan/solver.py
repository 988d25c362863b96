"""The recursive solver: a convolutional GRU over the query, told by clues and pairs.

x   = mix(clues, weighted by their use) joined with the query's colors
r,u = sigmoid(lora(conv [h, x]))
n   = tanh(lora(swiglu(conv [r h, x])))
h   = norm((1 - u) h + u n) + attention(h, demonstrations)
h   = 0.7 h + 0.3 h_0
y   = head(lora(h))                                  after the last step
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.arc import COLORS
from stabjax.models.attention import Attention
from stabjax.models.rlan.blocks import Block, Convolution, GroupNorm
from stabjax.models.rlan.config import Config
from stabjax.models.rlan.hyper_lora import LowRank

__all__ = ["RecursiveSolver", "mix_clues"]

_KEPT = 0.7  # of the new state; the rest is the first one


class RecursiveSolver(nnx.Module):
    """Thinks for a fixed number of steps; one step is compiled."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.width
        self.steps = config.solver_steps
        self.color = nnx.Embed(COLORS + 1, width, rngs=rngs)
        self.mix = nnx.Linear(2 * width, width, rngs=rngs)
        self.mix_norm = GroupNorm(config, rngs)
        self.drive = Convolution(config, width, 4 * width, rngs)
        self.gates = Convolution(config, width, 2 * width, rngs)
        self.candidate = Convolution(config, width, 2 * width, rngs)
        self.norm = GroupNorm(config, rngs)
        self.attention = Attention(width, width, config.attention_heads, rngs)
        self.head = Block(config, width, rngs)
        self.last = nnx.Linear(width, COLORS, rngs=rngs)

    def __call__(
        self,
        clues: Float[Array, "rows cells width"],
        query: Int[Array, "rows cells"],
        real: Bool[Array, "rows cells"],
        lora: LowRank,
        tokens: Float[Array, "rows tokens width"],
        tokens_real: Bool[Array, "rows tokens"],
    ) -> Float[Array, "rows cells colors"]:
        """Return the logits of every cell.

        Args:
            clues: Features as the clues see them, mixed by `mix_clues`.
            query: Colors of the query.
            real: Cells of its grid.
            lora: Changes of the weights, by the demonstrations.
            tokens: Features of the demonstrations.
            tokens_real: Which of them are shown.
        """
        joined = jnp.concatenate([clues, self.color(query)], axis=-1)
        x = nnx.gelu(self.mix_norm(self.mix(joined), real))
        # The part of the convolutions that sees x is the same in every step.
        drive = self.drive(x, real)
        keys, values = self.attention.project(tokens)

        def step(h: Array, _: None) -> tuple[Array, None]:
            h = self._gated(h, drive, real, lora)
            h = h + self.attention.attend(h, keys, values, tokens_real)
            return _KEPT * h + (1.0 - _KEPT) * x, None

        h, _ = jax.lax.scan(step, x, None, length=self.steps)
        return self.last(self.head(lora.apply("output", h), real))

    def _gated(
        self,
        h: Float[Array, "rows cells width"],
        drive: Float[Array, "rows cells four_widths"],
        real: Bool[Array, "rows cells"],
        lora: LowRank,
    ) -> Float[Array, "rows cells width"]:
        """Take one step of the convolutional GRU."""
        to_gates, to_candidate = jnp.split(drive, 2, axis=-1)
        gates = self.gates(h, real) + to_gates
        reset, update = jnp.split(gates, 2, axis=-1)
        reset = nnx.sigmoid(lora.apply("reset", reset))
        update = nnx.sigmoid(lora.apply("update", update))
        candidate = self.candidate(reset * h, real) + to_candidate
        value, gate = jnp.split(candidate, 2, axis=-1)
        new = jnp.tanh(lora.apply("candidate", value * nnx.silu(gate)))
        return self.norm((1.0 - update) * h + update * new, real)


def mix_clues(
    seen: Float[Array, "rows clues cells width"], use: Float[Array, "rows clues"]
) -> Float[Array, "rows cells width"]:
    """Average what the clues see, each by how much it is used.

    Gradient: none through the sum of uses, so that using less of everything does not
    look like a change.
    """
    total = jax.lax.stop_gradient(jnp.sum(use, axis=1))
    mixed = jnp.einsum("rkcw,rk->rcw", seen, use)
    return mixed / jnp.maximum(total, 1e-3)[:, None, None]
