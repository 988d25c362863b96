"""Multi-head attention whose keys and values are projected once for all ticks."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float

__all__ = ["Attention"]


class Attention(nnx.Module):
    """Queries of any number, from outside, against one set of tokens."""

    def __init__(self, queries: int, width: int, heads: int, rngs: nnx.Rngs):
        self.heads = heads
        self.query = nnx.Linear(queries, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(width, width, rngs=rngs)
        self.out = nnx.Linear(width, width, rngs=rngs)

    def project(
        self, tokens: Float[Array, "batch tokens width"]
    ) -> tuple[
        Float[Array, "batch tokens heads part"], Float[Array, "batch tokens heads part"]
    ]:
        """Return keys and values; they do not change while the core thinks."""
        return self._split(self.key(tokens)), self._split(self.value(tokens))

    def attend(
        self,
        queries: Float[Array, "batch some features"],
        keys: Float[Array, "batch tokens heads part"],
        values: Float[Array, "batch tokens heads part"],
        real: Bool[Array, "batch tokens"],
    ) -> Float[Array, "batch some width"]:
        """Mix the values of the ``real`` tokens, at least one per row."""
        query = self._split(self.query(queries))
        scores = jnp.einsum("bqhp,bkhp->bhqk", query, keys) * keys.shape[-1] ** -0.5
        # A finite floor: a row of -inf would turn into NaN in the softmax.
        scores = jnp.where(real[:, None, None, :], scores, -1e9)
        mixed = jnp.einsum("bhqk,bkhp->bqhp", jax.nn.softmax(scores), values)
        return self.out(mixed.reshape(*queries.shape[:-1], -1))

    def _split(
        self, x: Float[Array, "*lead width"]
    ) -> Float[Array, "*lead heads part"]:
        return x.reshape(*x.shape[:-1], self.heads, -1)
