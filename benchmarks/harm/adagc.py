"""Adaptive clipping per tensor after AdaGC, to compare with."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree


class AdaGCState(NamedTuple):
    """State of `adagc`.

    Attributes:
        count: Updates so far.
        typical: Per leaf, the norm that it is compared with.
    """

    count: Array
    typical: PyTree


def adagc(
    *,
    relative: float = 1.05,
    decay: float = 0.98,
    warmup: int = 100,
    max_norm: float = 1.0,
) -> optax.GradientTransformation:
    """Clip each leaf to ``relative`` times the running mean of its clipped norms.

    While warming up, the gradient is clipped by its global norm, and each leaf keeps
    the smallest clipped norm it has had. Afterwards ``g <- g * min(1, relative * m /
    norm(g))`` per leaf, with ``m <- decay * m + (1 - decay) * norm(clipped g)``. As
    published, a leaf whose gradient was zero once in the warm-up stays clipped to
    zero.

    Args:
        relative: How far above its mean a norm may be, > 0.
        decay: Decay of the running mean, in [0, 1).
        warmup: Updates with the global clip, >= 1.
        max_norm: Bound of the global clip, > 0.

    Returns:
        A gradient transformation.

    Source:
        Wang et al. (2025), AdaGC, arXiv:2502.11034; their 1.05, 0.98, 100 and 1.0.
    """

    def init(params: PyTree) -> AdaGCState:
        typical = jax.tree.map(lambda _: jnp.full((), jnp.inf, jnp.float32), params)
        return AdaGCState(jnp.zeros((), jnp.int32), typical)

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, AdaGCState]:
        del params
        early = state.count < warmup
        norms = jax.tree.map(_norm, updates)
        together = _ratio(jnp.float32(max_norm), _norm_of_all(norms))

        def factor(norm: Array, typical: Array) -> Array:
            return jnp.where(early, together, _ratio(relative * typical, norm))

        def learned(norm: Array, typical: Array, factor: Array) -> Array:
            clipped = factor * norm
            mean = decay * typical + (1 - decay) * clipped
            return jnp.where(early, jnp.minimum(typical, clipped), mean)

        factors = jax.tree.map(factor, norms, state.typical)
        typical = jax.tree.map(learned, norms, state.typical, factors)
        scaled = jax.tree.map(lambda g, f: (g * f).astype(g.dtype), updates, factors)
        return scaled, AdaGCState(state.count + 1, typical)

    return optax.GradientTransformation(init, update)


def _norm(leaf: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(leaf.astype(jnp.float32))))


def _norm_of_all(norms: PyTree) -> Array:
    return jnp.sqrt(sum(jnp.square(norm) for norm in jax.tree.leaves(norms)))


def _ratio(bound: Array, norm: Array) -> Array:
    """Return the factor that brings a norm down to its bound; one below it."""
    return jnp.where(norm > bound, bound / norm, jnp.float32(1.0))
