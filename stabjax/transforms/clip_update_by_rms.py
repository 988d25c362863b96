"""Bound the root mean square of what an optimizer proposes, tensor by tensor."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from stabjax.core.elementwise import scale_leaves
from stabjax.core.running import count_where
from stabjax.core.sums import norm_of, sums_in_both_units
from stabjax.guards import check
from stabjax.types import Count, GroupScale, Scalar


class ClipUpdateByRmsState(NamedTuple):
    """What `clip_update_by_rms` has done.

    Attributes:
        clips: Steps in which at least one tensor was clipped.
        tensors: Tensors clipped in the last step.
        largest_ratio: Largest root mean square over the bound in the last step; of
            those that are finite.
    """

    clips: Count
    tensors: Count
    largest_ratio: Scalar


def clip_update_by_rms(max_rms: float = 1.0) -> optax.GradientTransformation:
    """Scale each tensor of an update down to a largest root mean square.

    ``u / max(1, rms(u) / max_rms)`` with the root mean square of the tensor in
    float32. It belongs behind the scaling of an optimizer and before the learning
    rate: a second moment that lags behind a growing gradient gives updates that are
    too large, and this bounds them. A tensor that is not finite is left as it is.

    Args:
        max_rms: Largest root mean square of a tensor [update], in (0, inf).

    Returns:
        A gradient transformation.

    Raises:
        ValueError: If ``max_rms`` is out of range.

    Source:
        Shazeer & Stern (2018), Adafactor, arXiv:1804.04235, section 6.

    Example:
        >>> clip = clip_update_by_rms(1.0)
        >>> update = {"a": jnp.full((4,), 8.0), "b": jnp.ones(2)}
        >>> update, state = clip.update(update, clip.init(update))
        >>> print(update["a"], update["b"], state.largest_ratio)
        [1. 1. 1. 1.] [1. 1.] 8.0
    """
    check.in_range("clip_update_by_rms", "max_rms", max_rms, 0.0, low_open=True)

    def init(params: PyTree) -> ClipUpdateByRmsState:
        del params
        return ClipUpdateByRmsState(
            clips=jnp.zeros((), jnp.int32),
            tensors=jnp.zeros((), jnp.int32),
            largest_ratio=jnp.zeros((), jnp.float32),
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, ClipUpdateByRmsState]:
        del params
        ratios = _rms(updates) / max_rms
        finite = jnp.isfinite(ratios)
        over = finite & (ratios > 1.0)
        factors = jnp.where(over, 1.0 / ratios, 1.0)
        places = tuple(range(ratios.shape[0]))
        scale = GroupScale(tuple(factors[i] for i in places), places)
        state = ClipUpdateByRmsState(
            clips=count_where(state.clips, jnp.any(over)),
            tensors=jnp.sum(over, dtype=jnp.int32),
            largest_ratio=jnp.max(jnp.where(finite, ratios, 0.0), initial=0.0),
        )
        return scale_leaves(updates, scale), state

    return optax.GradientTransformation(init, update)


def _rms(tree: PyTree) -> Float[Array, " leaves"]:
    """Return the root mean square of each leaf, without overflow."""
    plain, small, _ = sums_in_both_units(tree, spread=True)
    sizes = [max(leaf.size, 1) for leaf in jax.tree.leaves(tree)]
    return norm_of(plain, small) / jnp.sqrt(jnp.asarray(sizes, jnp.float32))
