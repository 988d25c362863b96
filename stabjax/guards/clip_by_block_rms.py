"""Clip each block of parameters by the root mean square of its gradient."""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.measure import group_norms
from stabjax.core.running import count_where, running_mean
from stabjax.guards import check
from stabjax.guards import prefixes as named
from stabjax.types import (
    Alert,
    Count,
    GroupScale,
    Guard,
    Layout,
    Scalar,
    StepStats,
    Verdict,
    verdict,
)

_DECAY = 0.99


class ClipByBlockRmsState(NamedTuple):
    """Running statistics over all blocks.

    Attributes:
        seen: Finite steps so far [steps].
        clip_fraction: Running share of blocks clipped, in [0, 1].
        clip_ratio: Smallest factor of the last step, in (0, 1].
    """

    seen: Count
    clip_fraction: Scalar
    clip_ratio: Scalar


def clip_by_block_rms(
    *, threshold: float = 1.0, groups: Sequence[str] | None = None
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
        A guard that never refuses.

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
    check.in_range(name, "threshold", threshold, 0.0, low_open=True)
    prefixes = None if groups is None else named.checked(name, groups)

    def init() -> ClipByBlockRmsState:
        return ClipByBlockRmsState(
            seen=jnp.zeros((), jnp.int32),
            clip_fraction=jnp.zeros((), jnp.float32),
            clip_ratio=jnp.ones((), jnp.float32),
        )

    def judge(
        state: ClipByBlockRmsState, stats: StepStats
    ) -> tuple[ClipByBlockRmsState, Verdict]:
        block_of_leaf, sizes = _blocks(name, stats.layout, prefixes)
        if not sizes:
            return state, verdict()
        norms = _norms(stats, block_of_leaf, len(sizes), prefixes is None)
        bounds = [threshold * math.sqrt(max(size, 1)) for size in sizes]
        over = [
            jnp.isfinite(norm) & (norm > bound)
            for norm, bound in zip(norms, bounds, strict=True)
        ]
        factors = tuple(
            jnp.where(is_over, bound / norm, jnp.float32(1.0))
            for is_over, bound, norm in zip(over, bounds, norms, strict=True)
        )
        scale = GroupScale(factors, block_of_leaf)
        clipped = sum(flag.astype(jnp.float32) for flag in over)
        finite = stats.gradient_finite
        share = jnp.where(finite, clipped / len(sizes), jnp.float32(jnp.nan))
        state = ClipByBlockRmsState(
            seen=count_where(state.seen, finite),
            clip_fraction=running_mean(state.clip_fraction, share, state.seen, _DECAY),
            clip_ratio=scale.smallest(),
        )
        any_over = functools.reduce(jnp.logical_or, over)
        return state, verdict(gradient_scale=scale, alerts=Alert.CLIPPED.when(any_over))

    return Guard(name, init, judge)


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


def _norms(
    stats: StepStats, block_of_leaf: tuple[int, ...], blocks: int, by_leaf: bool
) -> tuple[Scalar, ...]:
    if by_leaf:
        return tuple(stats.leaf_norms[leaf] for leaf in range(blocks))
    return group_norms(stats.leaf_norms, block_of_leaf, blocks)
