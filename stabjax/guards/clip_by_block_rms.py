"""Clip each block of parameters by the root mean square of its gradient."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stabjax.core import groups as named
from stabjax.core.measure import group_norms
from stabjax.core.running import count_where, running_mean
from stabjax.guards import check
from stabjax.types import (
    Alert,
    Count,
    GroupScale,
    Guard,
    Layout,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)

_DECAY = 0.99


class ClipByBlockRmsState(NamedTuple):
    """Running statistics over all blocks.

    Attributes:
        seen: Applied steps in the statistics [steps].
        clip_fraction: Running share of blocks clipped, in [0, 1].
        clip_ratio: Smallest factor of the last step, in (0, 1].
    """

    seen: Count
    clip_fraction: Scalar
    clip_ratio: Scalar


def clip_by_block_rms(
    threshold: float | Scalar = 1.0, *, groups: Sequence[str] | None = None
) -> Guard:
    """Scale each block so that the root mean square of its gradient is bounded.

    ``g_b * min(1, threshold / rms(g_b))`` with ``rms = norm / sqrt(size)``, where a
    block is one leaf, or one group of leaves. Equal to `optax.clip_by_block_rms` in
    real numbers; here the squares are summed in float32 whatever the dtype, sums
    that overflow do not turn a block into zeros, and clipping reads one norm per
    leaf, not the gradient: it knows nothing of how a leaf is sharded.

    A block that is not finite is left as it is, and refused with its step; the
    other blocks do not see it.

    Args:
        threshold: Largest root mean square [gradient], in (0, inf).
        groups: None: every leaf is a block. Else path prefixes such as
            ``("core", "head/out")``; a leaf belongs to the longest that fits, and
            leaves that none fits form one more block.

    Returns:
        A guard that refuses no step, unless an injected bound is not positive.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if a
            prefix fits no parameter.

    Source:
        Shazeer & Stern (2018), Adafactor, arXiv:1804.04235, section 6, on gradients.

    Example:
        >>> clip_by_block_rms(threshold=0.1).name
        'clip_by_block_rms'
    """
    name = "clip_by_block_rms"
    threshold, valid = check.positive(name, "threshold", threshold)
    prefixes = None if groups is None else named.checked(name, groups)

    def init() -> ClipByBlockRmsState:
        return ClipByBlockRmsState(
            seen=jnp.zeros((), jnp.int32),
            clip_fraction=jnp.zeros((), jnp.float32),
            clip_ratio=jnp.ones((), jnp.float32),
        )

    def read(stats: StepStats) -> tuple[Array, Array, tuple[int, ...]]:
        """Return which blocks are over, their factors, and the block of each leaf."""
        block_of_leaf, sizes = _blocks(name, stats.layout, prefixes)
        norms = stats.leaf_norms
        if prefixes is not None:
            norms = jnp.stack(group_norms(norms, block_of_leaf, len(sizes)))
        bounds = threshold * np.sqrt(np.maximum(sizes, 1)).astype(np.float32)
        over = jnp.isfinite(norms) & (norms > bounds)
        return (
            over,
            jnp.where(over, bounds / jnp.maximum(norms, bounds), 1.0),
            block_of_leaf,
        )

    def judge(
        state: ClipByBlockRmsState, stats: StepStats
    ) -> tuple[ClipByBlockRmsState, Verdict]:
        if not stats.layout.leaves:
            return state, verdict()
        over, factors, block_of_leaf = read(stats)
        scale = GroupScale(tuple(jnp.unstack(factors)), block_of_leaf)
        return state._replace(clip_ratio=jnp.min(factors)), verdict(
            accept=valid, gradient_scale=scale, alerts=Alert.CLIPPED.when(jnp.any(over))
        )

    def learn(
        state: ClipByBlockRmsState, stats: StepStats, outcome: StepOutcome
    ) -> ClipByBlockRmsState:
        if not stats.layout.leaves:
            return state
        share = jnp.mean(read(stats)[0].astype(jnp.float32))
        return state._replace(
            seen=count_where(state.seen, outcome.applied),
            clip_fraction=running_mean(
                state.clip_fraction, share, state.seen, _DECAY, outcome.applied
            ),
        )

    return Guard(name, init, judge, learn)


def _blocks(
    name: str, layout: Layout, prefixes: tuple[str, ...] | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the block of each leaf, and how many elements each block has."""
    if prefixes is None:
        return tuple(range(len(layout.leaves))), layout.sizes
    members = named.members(name, layout, prefixes)
    sizes = [0] * (len(prefixes) + 1)
    for block, size in zip(members, layout.sizes, strict=True):
        sizes[block] += size
    return members, tuple(sizes)
