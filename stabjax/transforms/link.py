"""A guard that only scales, as one link of an `optax.chain`."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core import judge as judging
from stabjax.core.elementwise import clip_leaves, scale_leaves, select
from stabjax.core.layout import layout_of
from stabjax.core.measure import step_stats
from stabjax.core.sums import sums_in_both_units
from stabjax.transforms._common import require_loss
from stabjax.transforms.guard import GuardState, after_step, first_guard_state
from stabjax.types import Guard


def link(one: Guard) -> optax.GradientTransformationExtraArgs:
    """Return a guard that never refuses as a gradient transformation.

    A gradient that is not finite passes as it is: to refuse it is up to what stands
    behind in the chain, or around it, and zeros would hide it from both. Where the
    bound of the guard is itself not valid, or a norm above 2**112 is not clipped, the
    update is zero, and counts as refused.

    Args:
        one: A guard that clips or scales.

    Returns:
        The transformation, with the state of `guard`.
    """

    def init(params: PyTree) -> GuardState:
        del params
        return first_guard_state(optax.EmptyState(), judging.init_core([one]))

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[PyTree, GuardState]:
        del params, extra_args
        require_loss(one.name, [one], value)
        loss = jnp.float32(0.0) if value is None else jnp.asarray(value)
        stats = step_stats(
            layout_of(updates),
            sums_in_both_units(updates, spread=True),
            loss,
            {},
            state.core.progress(),
        )
        judged = judging.judge([one], state.core, stats, squarable=False)
        _, opinion = one.judge(state.core.guards[0], stats)
        # Nothing is learned from what is not finite, and it is counted as refused.
        applied = judged.decision.accept
        scaled = clip_leaves(updates, opinion.gradient_scale, stats.norm_unit)
        scaled = scale_leaves(scaled, opinion.update_scale)
        core = judging.advance(state.core, [one], judged, stats, applied)
        zeros = jax.tree.map(jnp.zeros_like, updates)
        after = after_step(
            state, state.inner_state, core, judged.decision, stats, applied
        )
        passes = opinion.accept & (applied | ~stats.finite)
        return select(passes, scaled, zeros), after

    return optax.GradientTransformationExtraArgs(init, update)
