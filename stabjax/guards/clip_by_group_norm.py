"""Clip each group of parameters by its own norm, so that none starves the rest."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.core import groups as named
from stabjax.core.measure import group_norms
from stabjax.core.running import (
    count_where,
    running_geometric_mean,
    running_mean,
)
from stabjax.guards import check
from stabjax.types import (
    Alert,
    GroupScale,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)

_DECAY = 0.99


class ClipByGroupNormState(NamedTuple):
    """Running statistics per group; the last entry is the rest.

    Attributes:
        seen: Applied steps in the statistics [steps].
        clip_fraction: Running share of steps clipped, in [0, 1].
        typical_norm: Running geometric mean of the norm before clipping [gradient];
            a norm of zero does not count.
    """

    seen: Int[Array, " groups"]
    clip_fraction: Float[Array, " groups"]
    typical_norm: Float[Array, " groups"]


def clip_by_group_norm(
    max_norm: float | Scalar = 1.0, *, groups: Sequence[str] = ()
) -> Guard:
    """Scale each group of parameters so that its own norm is at most ``max_norm``.

    One global norm lets a single exploding head take the whole budget: everything
    else is then scaled to nothing. Here each group pays for itself.

    Args:
        max_norm: Largest norm of each group [gradient], in (0, inf).
        groups: Path prefixes such as ``("core", "head/mcmc")``; a leaf belongs to
            the longest that fits, and leaves that none fits form one more group.

    Returns:
        A guard that refuses no step, unless an injected bound is not positive.

    Raises:
        ValueError: If an option is out of range, or, when the step is traced, if a
            prefix fits no parameter.

    Source:
        Own; per-parameter clipping is asked for in allenai/OLMo#266.

    Example:
        >>> clip_by_group_norm(groups=["core", "head"]).labels
        ('core', 'head', 'rest')
    """
    name = "clip_by_group_norm"
    max_norm, valid = check.positive(name, "max_norm", max_norm)
    prefixes = named.checked(name, groups)
    labels = (*prefixes, named.REST)

    def init() -> ClipByGroupNormState:
        return ClipByGroupNormState(
            seen=jnp.zeros((len(labels),), jnp.int32),
            clip_fraction=jnp.zeros((len(labels),), jnp.float32),
            typical_norm=jnp.zeros((len(labels),), jnp.float32),
        )

    def judge(
        state: ClipByGroupNormState, stats: StepStats
    ) -> tuple[ClipByGroupNormState, Verdict]:
        members = named.members(name, stats.layout, prefixes)
        norms = group_norms(stats.leaf_norms, members, len(labels))
        clipped = [jnp.isfinite(norm) & (norm > max_norm) for norm in norms]
        factors = tuple(
            jnp.where(over, max_norm / jnp.maximum(norm, max_norm), jnp.float32(1.0))
            for over, norm in zip(clipped, norms, strict=True)
        )
        scale = GroupScale(factors, members)
        alerts = Alert.CLIPPED.when(functools.reduce(jnp.logical_or, clipped))
        return state, verdict(accept=valid, gradient_scale=scale, alerts=alerts)

    def learn(
        state: ClipByGroupNormState, stats: StepStats, outcome: StepOutcome
    ) -> ClipByGroupNormState:
        members = named.members(name, stats.layout, prefixes)
        norms = jnp.stack(group_norms(stats.leaf_norms, members, len(labels)))
        applied = outcome.applied & jnp.isfinite(norms)
        clipped = (norms > max_norm).astype(jnp.float32)
        return ClipByGroupNormState(
            seen=count_where(state.seen, applied),
            clip_fraction=running_mean(
                state.clip_fraction, clipped, state.seen, _DECAY, applied
            ),
            typical_norm=running_geometric_mean(
                state.typical_norm, norms, state.seen, _DECAY, applied & (norms > 0)
            ),
        )

    return Guard(name, init, judge, learn, labels=labels)
