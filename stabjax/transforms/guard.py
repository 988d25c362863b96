"""Guards around any optax optimizer, under the optax contract."""

import contextlib
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core import judge as judging
from stabjax.core.across import AxisName, over_shards, sums_over_shards
from stabjax.core.apply import FiniteCheck, settled, settled_state
from stabjax.core.blame import NONE, first_damaged, lost_parameter
from stabjax.core.elementwise import (
    clip_leaves,
    nonfinite_elements,
    repair,
    scale_leaves,
    select,
)
from stabjax.core.frozen import Trainable, trained, without_frozen
from stabjax.core.headroom import holds_squares, survives_probe
from stabjax.core.layout import layout_of
from stabjax.core.measure import step_stats
from stabjax.core.sums import norm_of, sums_in_both_units
from stabjax.core.update_size import root_mean_square
from stabjax.guards import recommended
from stabjax.guards.given import Guards
from stabjax.transforms._common import (
    check_inner,
    check_leaves,
    fresh_state,
    listed,
    moving,
    require_loss,
)
from stabjax.types import Count, Flag, Guard, Scalar, StepStats, Verdict


class GuardState(NamedTuple):
    """State of `guard`.

    What it does not have itself it asks its inner state for, so that
    ``state.hyperparams`` of `optax.inject_hyperparams` and functions such as
    `optax.contrib.schedule_free_eval_params` work on it as on the state inside;
    `optax.tree.get` and `optax.tree.set` find what is in either.

    Attributes:
        inner_state: State of the inner optimizer.
        core: Counters and guard states by name; `optax.tree.get` finds them.
        alerts: Bits of `stabjax.types.Alert` of the last step.
        roll_back: A guard asked for a rollback in the last step; the caller, who
            has the parameters, may follow it.
        first_bad_leaf: First leaf that was not finite in the last refused step, an
            index into `jax.tree.leaves` of the parameters; -1 for none.
        refused_step: The last step that was refused, from 0; -1 for none.

    Example:
        >>> optimizer = guard(optax.inject_hyperparams(optax.adam)(learning_rate=0.1))
        >>> state = optimizer.init({"w": jnp.ones(2)})
        >>> print(state.hyperparams["learning_rate"])
        0.1
        >>> print(optax.tree.get(state, "mu"), optax.tree.get(state, "refused"))
        {'w': Array([0., 0.], dtype=float32)} 0
    """

    inner_state: PyTree
    core: judging.Core
    alerts: Count
    roll_back: Flag
    first_bad_leaf: Count
    refused_step: Count

    def __getattr__(self, name: str) -> Any:
        """Return what the inner state calls so."""
        # Python and JAX ask for private names to find out what a value can do.
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return getattr(self.inner_state, name)
        except AttributeError:
            raise AttributeError(
                f"neither GuardState nor the state inside has {name!r}; the state of "
                "the inner optimizer is inner_state."
            ) from None


def first_guard_state(inner_state: PyTree, core: judging.Core) -> GuardState:
    """Return the state before the first step."""
    return GuardState(
        inner_state=inner_state,
        core=core,
        alerts=jnp.zeros((), jnp.int32),
        roll_back=jnp.zeros((), jnp.bool_),
        first_bad_leaf=jnp.full((), -1, jnp.int32),
        refused_step=jnp.full((), -1, jnp.int32),
    )


def after_step(
    before: GuardState,
    inner_state: PyTree,
    core: judging.Core,
    decision: Verdict,
    stats: StepStats,
    applied: Flag,
) -> GuardState:
    """Return the state after a step."""
    # In a streak of refusals the leaf stays named; the last may be a mere halt.
    earlier = jnp.where(stats.consecutive_refused > 0, before.first_bad_leaf, -1)
    found = jnp.where(stats.first_bad_leaf < 0, earlier, stats.first_bad_leaf)
    last = jnp.where(applied, before.first_bad_leaf, found)
    return GuardState(
        inner_state=inner_state,
        core=core,
        alerts=decision.alerts,
        roll_back=decision.roll_back,
        first_bad_leaf=last,
        refused_step=jnp.where(applied, before.refused_step, stats.step),
    )


def guard(
    inner: optax.GradientTransformation,
    *guards: Guards,
    finite_check: FiniteCheck = "outcome",
    measure_updates: bool = True,
    trainable: Trainable = None,
    axis_name: AxisName = None,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that a refused step changes nothing.

    Drops into any `optax.chain`, `inject_hyperparams` or train state. Gradients are
    measured once; the inner optimizer sees them scaled as the guards ask. A step is
    refused if a guard refuses it, or if the loss, the gradient, the update or the
    new inner state is not finite: the update is then zero and the inner state, with
    its schedule counters, is what it was. Put it outside of whatever must not move
    on a refused step, weight decay and momentum above all.

    What moves outside of the optimizer, such as the statistics of a batch
    normalization, an average of the weights or a target network, does not know of the
    refusal: keep the old with `stabjax.keep_if_refused`.

    Pass the loss as ``value=`` to `update`; guards that judge on it require it.
    `stabjax.train_step.make_train_step` does the same at a lower cost, and adds
    rollback, telemetry and the model state.

    Args:
        inner: The optimizer.
        *guards: Guards in any order, or sequences of them. Without any, those of
            `stabjax.guards.recommended`; with an empty sequence, only what is finite
            is applied.
        finite_check: ``"outcome"`` reads the update and the new inner state once more
            before they are let through. ``"headroom"`` refuses a gradient whose
            square would overflow instead, for the optax optimizers that are known
            to stay finite then, and lets no non-finite element of an update through:
            moments that were damaged from outside hold their parameters still, and
            nothing here says so; `stabjax.make_train_step` does.
        measure_updates: Measure the norm of each update, which guards judge on in the
            next step. With sharded parameters these two options save an exchange.
        trainable: Which leaves the optimizer moves: a tree of booleans, or a function
            of a leaf's path. The gradients of the others count in nothing. None:
            those whose update the optimizer does not always set to zero.
        axis_name: The mapped axis or axes over which the gradients are sharded inside
            `jax.shard_map`; their norms are then those of the whole leaves, and all
            devices take one decision.

    Returns:
        A gradient transformation that takes extra arguments and forwards them.

    Raises:
        TypeError: If a guard is not a `Guard`, or ``inner`` no optax transformation; in
            `init`, if a leaf of the parameters is no array.
        ValueError: If a guard scales the loss, which only a train step can undo.
        ValueError: In `update`, if ``finite_check`` is ``"headroom"`` and ``inner`` is
            not known to stay finite.
        ValueError: In `update`, if a guard reads the loss and no ``value`` is given.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from stabjax.guards import clip_by_global_norm, skip_spikes
        >>> optimizer = guard(optax.adam(1e-3), clip_by_global_norm(), skip_spikes())
        >>> params = {"w": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> gradient = {"w": jnp.array([jnp.nan, 1.0])}
        >>> updates, state = optimizer.update(gradient, state, params, value=1.0)
        >>> print(updates["w"], state.core.refused, state.first_bad_leaf)
        [0. 0.] 1 0
    """
    check_inner("guard", inner)
    guarded = _Guarded(
        inner=optax.with_extra_args_support(inner),
        guards=listed("guard", *(guards or recommended())),
        finite_check=finite_check,
        measure_updates=measure_updates,
        trainable=trainable,
        axis_name=axis_name,
    )
    return optax.GradientTransformationExtraArgs(guarded.init, guarded.update)


@dataclasses.dataclass(frozen=True)
class _Guarded:
    """The fixed parts of `guard`."""

    inner: optax.GradientTransformationExtraArgs
    guards: tuple[Guard, ...]
    finite_check: FiniteCheck
    measure_updates: bool
    trainable: Trainable
    axis_name: AxisName

    def init(self, params: PyTree) -> GuardState:
        """Return the state before the first step."""
        check_leaves("guard", params)
        inner_state = self.inner.init(params)
        # One that needs more arguments than the loss says so in its first update.
        with contextlib.suppress(Exception):
            inner_state = settled_state(self.inner, inner_state, params)
        core = judging.init_core(self.guards)
        damaged = jnp.full((), first_damaged(params), jnp.int32)
        return first_guard_state(inner_state, core._replace(damaged=damaged))

    def update(
        self,
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[PyTree, GuardState]:
        """Obey the contract of optax."""
        require_loss("guard", self.guards, value)
        params = moving(params, updates)
        if value is not None:
            extra_args["value"] = value
        moves = trained(
            self.inner, state.inner_state, updates, params, self.trainable, extra_args
        )
        updates = without_frozen(updates, moves)
        stats, updates = self._measured(updates, state.core, params, value)
        squarable = self.finite_check == "headroom"
        if squarable:
            _require_headroom(self.inner, state.inner_state, updates)
        judged = judging.judge(self.guards, state.core, stats, squarable=squarable)
        decision = judged.decision
        scaled = clip_leaves(updates, decision.gradient_scale, stats.norm_unit)
        proposed, inner_state = self.inner.update(
            scaled, state.inner_state, params, **extra_args
        )
        if any(given.bounds_updates for given in self.guards):
            size = self._size(proposed)
            judged = judging.bound_update(judged, self.guards, size)
            decision = judged.decision
        proposed = scale_leaves(proposed, decision.update_scale)
        proposed, lost = self._checked(
            proposed, state.inner_state, inner_state, decision
        )
        judged, applied, stats = settled(judged, lost, stats)
        core = judging.advance(state.core, self.guards, judged, stats, applied)
        if self.measure_updates:
            core = core.with_movement(self._norm(proposed), core.update_ratio, applied)
        inner_state = self._kept(applied, decision, inner_state, state, params, updates)
        zeros = jax.tree.map(jnp.zeros_like, proposed)
        after = after_step(state, inner_state, core, judged.decision, stats, applied)
        return select(applied, proposed, zeros), after

    def _measured(
        self, updates: PyTree, core: judging.Core, params: PyTree | None, value: Any
    ) -> tuple[StepStats, PyTree]:
        repaired = jnp.zeros((), jnp.int32)
        if any(given.repairs for given in self.guards):
            repaired, updates = nonfinite_elements(updates), repair(updates)
        # Without a loss no guard reads it, and a constant is finite.
        loss = jnp.float32(0.0) if value is None else jnp.asarray(value)
        if self.axis_name is not None:
            repaired = jax.lax.psum(repaired, self.axis_name)
            loss = jax.lax.pmean(loss, self.axis_name)
        sums = sums_in_both_units(updates, spread=True)
        stats = step_stats(
            layout_of(updates),
            sums_over_shards(sums, updates, self.axis_name),
            loss,
            {},
            core.progress(),
            repaired=repaired,
        )
        return stats, updates

    def _checked(
        self, proposed: PyTree, before: PyTree, after: PyTree, decision: Verdict
    ) -> tuple[PyTree, Count]:
        """Return the update, and what it would lose, see `blame.lost_parameter`."""
        if self.finite_check == "headroom":
            kept = select(decision.waive, proposed, repair(proposed))
            return kept, jnp.int32(NONE)
        zeros = jax.tree.map(jnp.zeros_like, proposed)
        lost = lost_parameter(zeros, proposed, before, after, self.axis_name)
        return proposed, jnp.where(decision.waive, NONE, lost)

    def _norm(self, updates: PyTree) -> Scalar:
        sums = sums_in_both_units(updates, spread=True)
        whole = sums_over_shards(sums, updates, self.axis_name)
        return norm_of(jnp.sum(whole.plain), jnp.sum(whole.small))

    def _size(self, updates: PyTree) -> Scalar:
        """Return the size of an update, see `core.update_size`, from all elements."""
        leaves = jax.tree.leaves(updates)
        sums = sums_in_both_units(updates, spread=True)
        moved = [jnp.sum(leaf != 0, dtype=jnp.float32) for leaf in leaves]
        whole = sums_over_shards(sums, updates, self.axis_name)
        everywhere = over_shards(jnp.stack(moved), leaves, self.axis_name)
        return root_mean_square(
            jnp.sum(whole.plain), jnp.sum(whole.small), jnp.sum(everywhere)
        )

    def _kept(
        self,
        applied: Flag,
        decision: Verdict,
        new: PyTree,
        state: GuardState,
        params: PyTree | None,
        updates: PyTree,
    ) -> PyTree:
        """Return the inner state that goes on."""
        inner_state = select(applied, new, state.inner_state)
        if any(given.resets_moments for given in self.guards):
            fresh = fresh_state(self.inner, params, updates, inner_state)
            inner_state = select(decision.reset_moments, fresh, inner_state)
        # Some optimizers widen their state in an update; a loop needs one dtype.
        return jax.tree.map(
            lambda x, old: x.astype(old.dtype), inner_state, state.inner_state
        )


def _require_headroom(
    inner: optax.GradientTransformationExtraArgs, inner_state: PyTree, like: PyTree
) -> None:
    if not (holds_squares(inner_state) and survives_probe(inner, like)):
        raise ValueError(
            "guard: finite_check must be 'outcome' for an optimizer that is not known "
            "to stay finite, got 'headroom'."
        )
