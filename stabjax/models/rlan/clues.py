"""Clue attention: picks places of the query one after the other, until it stops.

q_k     = norm(query_k + h)
scores  = 4 cos(W q, W f) + 2 <W' q, place> + 3 [not black] + 1.5 log(left)
A_k     = softmax(scores / temperature)
h       = GRU(sum A_k v, h)
raw_k   = MLP(sum A_k v, confidence, context, complexity)
stop_k  = 6 tanh(raw_k / 6)
left    = left (1 - 0.98 A_k)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.models.rlan.blocks import sinusoids
from stabjax.models.rlan.config import Config

__all__ = ["STOP_BOUND", "ClueAttention", "Clues"]

STOP_BOUND = 6.0  # the stop logit is this times tanh
_COSINE, _PLACE, _FOREGROUND, _LEFT = 4.0, 2.0, 3.0, 1.5
_TAKEN = 0.98  # share of a place's attention that is not available again
_SCORES = 50.0
_FIRST_STOP = -1.0  # bias: most clues are used at first


class Clues(NamedTuple):
    """The places one query picked.

    Attributes:
        attention: Over the cells of the query, one row per clue.
        centroid: Mean row and column of the attention [cells].
        raw: Stop logit before it is bounded.
        entropy: Of each attention over that of all cells alike, in [0, 1].
    """

    attention: Float[Array, "rows clues cells"]
    centroid: Float[Array, "rows clues 2"]
    raw: Float[Array, "rows clues"]
    entropy: Float[Array, "rows clues"]

    @property
    def stop(self) -> Float[Array, "rows clues"]:
        """Stop logits in (-6, 6), as the solver sees them."""
        return STOP_BOUND * jnp.tanh(self.raw / STOP_BOUND)


class _Hand(NamedTuple):
    """What one pick hands to the next."""

    memory: Float[Array, "rows width"]
    left: Float[Array, "rows cells"]


class ClueAttention(nnx.Module):
    """Sequential attention with a stop head; one pick is compiled."""

    def __init__(self, config: Config, rngs: nnx.Rngs):
        width = config.width
        self.side, self.half = config.grid, width // 2
        self.queries = nnx.Param(
            jax.random.normal(rngs.params(), (config.clues, width), jnp.float32)
        )
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.ask = nnx.Linear(width, width + self.half, rngs=rngs)
        self.offer = nnx.Linear(width, 2 * width, rngs=rngs)
        self.gates = nnx.Linear(2 * width, 3 * width, rngs=rngs)
        self.stop_hidden = nnx.Linear(2 * width + 4, width // 2, rngs=rngs)
        self.stop_last = nnx.Linear(
            width // 2,
            1,
            bias_init=nnx.initializers.constant(_FIRST_STOP),
            rngs=rngs,
        )

    def __call__(
        self,
        features: Float[Array, "rows cells width"],
        foreground: Bool[Array, "rows cells"],
        real: Bool[Array, "rows cells"],
        context: Float[Array, "rows width"],
        complexity: Float[Array, "rows 3"],
        temperature: Float[Array, ""],
    ) -> Clues:
        """Pick all clues; ``real`` must hold a cell in every row."""
        offered = self.offer(features)
        keys, values = jnp.split(offered, 2, axis=-1)
        keys = _unit(keys)
        place = jnp.asarray(sinusoids(self.side, self.half))
        fixed = _FOREGROUND * foreground.astype(jnp.float32)

        def pick(hand: _Hand, query: Float[Array, " width"]) -> tuple[_Hand, Clues]:
            asked = self.ask(self.norm(query[None] + hand.memory))
            wanted, where = asked[:, : -self.half], asked[:, -self.half :]
            scores = _COSINE * jnp.einsum("rw,rcw->rc", _unit(wanted), keys)
            scores += _PLACE * (where @ place.T) * self.half**-0.5
            scores += fixed + _LEFT * jnp.log(hand.left)
            scores = jnp.clip(scores, -_SCORES, _SCORES) / temperature
            attention = jax.nn.softmax(jnp.where(real, scores, -1e9))
            seen = jnp.einsum("rc,rcw->rw", attention, values)
            entropy = _entropy(attention, real)
            told = (seen, 1.0 - entropy[:, None], context, complexity)
            hidden = nnx.gelu(self.stop_hidden(jnp.concatenate(told, axis=-1)))
            taken = jax.lax.stop_gradient(attention)
            after = _Hand(
                self._remember(seen, hand.memory), hand.left * (1.0 - _TAKEN * taken)
            )
            raw = self.stop_last(hidden)[:, 0]
            return after, Clues(attention, self._centroid(attention), raw, entropy)

        start = _Hand(
            jnp.zeros((len(features), keys.shape[-1]), jnp.float32),
            jnp.ones(real.shape, jnp.float32),
        )
        _, clues = jax.lax.scan(pick, start, self.queries[...])
        return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1), clues)

    def _remember(
        self, seen: Float[Array, "rows width"], memory: Float[Array, "rows width"]
    ) -> Float[Array, "rows width"]:
        """Take one step of a gated recurrent unit."""
        gates = self.gates(jnp.concatenate([seen, memory], axis=-1))
        update, output, new = jnp.split(gates, 3, axis=-1)
        keep = nnx.sigmoid(update)
        return keep * memory + (1.0 - keep) * nnx.sigmoid(output) * jnp.tanh(new)

    def _centroid(
        self, attention: Float[Array, "rows cells"]
    ) -> Float[Array, "rows 2"]:
        cell = jnp.arange(self.side * self.side)
        corners = jnp.stack([cell // self.side, cell % self.side], axis=1)
        return attention @ corners.astype(jnp.float32)


def _unit(x: Float[Array, "*lead width"]) -> Float[Array, "*lead width"]:
    # The root alone has no slope at zero.
    return x * jax.lax.rsqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-12)


def _entropy(
    attention: Float[Array, "rows cells"], real: Bool[Array, "rows cells"]
) -> Float[Array, " rows"]:
    """Return the entropy over that of equal attention to every real cell."""
    positive = attention > 0.0
    logarithm = jnp.log(jnp.where(positive, attention, 1.0))
    cells = jnp.sum(real, axis=1).astype(jnp.float32)
    return -jnp.sum(attention * logarithm, axis=1) / jnp.log(jnp.maximum(cells, 2.0))
