"""Scale the gradient down to a largest global norm, and say how often."""

from typing import NamedTuple

import jax.numpy as jnp

from stabjax.core.elementwise import unit_of
from stabjax.core.running import (
    count_where,
    running_geometric_mean,
    running_mean,
)
from stabjax.guards import check
from stabjax.types import (
    Alert,
    Count,
    Guard,
    Scalar,
    StepOutcome,
    StepStats,
    Verdict,
    verdict,
)

# Half of what is remembered is of the last 70 steps.
_DECAY = 0.99


class ClipByGlobalNormState(NamedTuple):
    """Running statistics of the clipping.

    Attributes:
        seen: Applied steps in the statistics [steps].
        clip_fraction: Running share of steps clipped, in [0, 1].
        typical_norm: Running geometric mean of the norm before clipping [gradient];
            a norm of zero does not count.
        clip_ratio: Factor of the last step, in (0, 1].
    """

    seen: Count
    clip_fraction: Scalar
    typical_norm: Scalar
    clip_ratio: Scalar


def clip_by_global_norm(max_norm: float | Scalar = 1.0) -> Guard:
    """Scale the gradient so that its global norm is at most ``max_norm``.

    ``g * min(1, max_norm / norm(g))`` with the norm of all leaves together, in
    float32 whatever their dtype. Unlike `optax.clip_by_global_norm` it multiplies
    by one scalar (which XLA fuses), does not turn a gradient whose sum of squares
    overflows into zeros, and keeps statistics of the norm before clipping. Any finite
    gradient is clipped, also one whose norm float32 does not hold.

    Args:
        max_norm: Largest norm [gradient], in (0, inf).

    Returns:
        A guard that refuses no step, unless an injected bound is not positive.

    Raises:
        ValueError: If ``max_norm`` is not a positive finite number.

    Source:
        Pascanu, Mikolov & Bengio (2013), arXiv:1211.5063.

    Example:
        >>> clip_by_global_norm(max_norm=0.5).name
        'clip_by_global_norm'
    """
    name = "clip_by_global_norm"
    max_norm, valid = check.positive(name, "max_norm", max_norm)

    def init() -> ClipByGlobalNormState:
        return ClipByGlobalNormState(
            seen=jnp.zeros((), jnp.int32),
            clip_fraction=jnp.zeros((), jnp.float32),
            typical_norm=jnp.zeros((), jnp.float32),
            clip_ratio=jnp.ones((), jnp.float32),
        )

    def judge(
        state: ClipByGlobalNormState, stats: StepStats
    ) -> tuple[ClipByGlobalNormState, Verdict]:
        norm = stats.grad_norm
        clipped = jnp.isfinite(norm) & (norm > max_norm)
        over = jnp.maximum(stats.norm_in_unit, max_norm)
        ratio = jnp.where(clipped, max_norm / over, 1.0)
        state = state._replace(clip_ratio=ratio / unit_of(ratio, stats.norm_unit))
        return state, verdict(
            accept=valid, gradient_scale=ratio, alerts=Alert.CLIPPED.when(clipped)
        )

    def learn(
        state: ClipByGlobalNormState, stats: StepStats, outcome: StepOutcome
    ) -> ClipByGlobalNormState:
        norm, applied = stats.grad_norm, outcome.applied
        clipped = (norm > max_norm).astype(jnp.float32)
        return state._replace(
            seen=count_where(state.seen, applied),
            clip_fraction=running_mean(
                state.clip_fraction, clipped, state.seen, _DECAY, applied
            ),
            typical_norm=running_geometric_mean(
                state.typical_norm, norm, state.seen, _DECAY, applied & (norm > 0)
            ),
        )

    return Guard(name, init, judge, learn)
