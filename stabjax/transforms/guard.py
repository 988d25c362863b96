"""Guards around any optax optimizer, under the optax contract."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core import judge as judging
from stabjax.core.apply import FiniteCheck
from stabjax.core.elementwise import (
    becomes_nonfinite,
    nonfinite_elements,
    repair,
    scale_leaves,
    select,
)
from stabjax.core.headroom import holds_squares, survives_probe
from stabjax.core.layout import layout_of
from stabjax.core.measure import step_stats
from stabjax.core.sums import sums_in_both_units
from stabjax.guards.given import Guards
from stabjax.transforms._common import (
    check_inner,
    check_leaves,
    fresh_state,
    listed,
    moving,
    require_loss,
)
from stabjax.types import Alert, Count, Flag, StepStats


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


def guard(
    inner: optax.GradientTransformation,
    *guards: Guards,
    finite_check: FiniteCheck = "outcome",
    measure_updates: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Wrap an optimizer so that a refused step changes nothing.

    Drops into any `optax.chain`, `inject_hyperparams` or train state. Gradients are
    measured once; the inner optimizer sees them scaled as the guards ask. A step is
    refused if a guard refuses it, or if the loss, the gradient, the update or the
    new inner state is not finite: the update is then zero and the inner state, with
    its schedule counters, is what it was. Put it outside of whatever must not move
    on a refused step, weight decay and momentum above all.

    Pass the loss as ``value=`` to `update`; guards that judge on it require it.
    `stabjax.train_step.make_train_step` does the same at a lower cost, and adds
    rollback, telemetry and the model state.

    Args:
        inner: The optimizer.
        *guards: Guards in any order, or sequences of them; with none, only what is
            finite is applied.
        finite_check: ``"outcome"`` reads the update and the new inner state once more
            before they are let through. ``"headroom"`` refuses a gradient whose
            square would overflow instead, for the optax optimizers that are known
            to stay finite then, and lets no non-finite element of an update through.
        measure_updates: Measure the norm of each update, which guards judge on in the
            next step. With sharded parameters these two options save an exchange.

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
        >>> print(updates["w"], state.core.refused)
        [0. 0.] 1
    """
    check_inner("guard", inner)
    guards = listed("guard", *guards)
    inner = optax.with_extra_args_support(inner)

    def init(params: PyTree) -> GuardState:
        check_leaves("guard", params)
        return GuardState(
            inner_state=inner.init(params),
            core=judging.init_core(guards),
            alerts=jnp.zeros((), jnp.int32),
            roll_back=jnp.zeros((), jnp.bool_),
        )

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[PyTree, GuardState]:
        require_loss("guard", guards, value)
        params = moving(params, updates)
        repaired = jnp.zeros((), jnp.int32)
        if any(given.repairs for given in guards):
            repaired, updates = nonfinite_elements(updates), repair(updates)
        stats = _measure(updates, state.core, value, repaired)
        squarable = finite_check == "headroom"
        if squarable:
            _require_headroom(inner, state.inner_state, updates)
        states, decision = judging.judge(guards, state.core, stats, squarable=squarable)
        if value is not None:
            extra_args["value"] = value
        scaled = scale_leaves(updates, decision.gradient_scale)
        proposed, inner_state = inner.update(
            scaled, state.inner_state, params, **extra_args
        )
        proposed = scale_leaves(proposed, decision.update_scale)
        zeros = jax.tree.map(jnp.zeros_like, proposed)
        if squarable:
            lost = jnp.zeros((), jnp.bool_)
            proposed = select(decision.waive, proposed, repair(proposed))
        else:
            lost = becomes_nonfinite(zeros, proposed)
            lost |= becomes_nonfinite(state.inner_state, inner_state)
        applied = decision.accept & (~lost | decision.waive)
        core = judging.advance(state.core, states, decision, applied)
        if measure_updates:
            moved = jnp.sqrt(jnp.sum(sums_in_both_units(proposed, spread=True).plain))
            moved = jnp.where(applied, moved, core.update_norm)
            core = core._replace(update_norm=moved)
        alerts = decision.alerts | Alert.NONFINITE_STATE.when(decision.accept & lost)
        inner_state = select(applied, inner_state, state.inner_state)
        if any(given.resets_moments for given in guards):
            fresh = fresh_state("guard", inner, params, inner_state)
            inner_state = select(decision.reset_moments, fresh, inner_state)
        after = GuardState(
            inner_state=inner_state,
            core=core,
            alerts=alerts,
            roll_back=decision.roll_back,
        )
        return select(applied, proposed, zeros), after

    return optax.GradientTransformationExtraArgs(init, update)


def _require_headroom(
    inner: optax.GradientTransformationExtraArgs, inner_state: PyTree, like: PyTree
) -> None:
    if not (holds_squares(inner_state) and survives_probe(inner, like)):
        raise ValueError(
            "guard: finite_check must be 'outcome' for an optimizer that is not known "
            "to stay finite, got 'headroom'."
        )


def _measure(
    updates: PyTree, core: judging.Core, value: Any, repaired: Count
) -> StepStats:
    # Without a loss no guard reads it, and a constant is finite.
    loss = jnp.float32(0.0) if value is None else jnp.asarray(value, jnp.float32)
    sums = sums_in_both_units(updates, spread=True)
    layout = layout_of(updates)
    return step_stats(layout, sums, loss, {}, core.progress(), repaired=repaired)
