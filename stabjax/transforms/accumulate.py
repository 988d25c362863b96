"""Gradient accumulation that leaves a bad micro-batch out of the mean."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from stabjax.core import judge as judging
from stabjax.core.apply import Form, Outcome, Trial
from stabjax.core.blame import becomes_nonfinite
from stabjax.core.elementwise import scale_leaves, select
from stabjax.core.given import shown
from stabjax.core.headroom import holds_squares, survives_probe
from stabjax.core.layout import is_inexact
from stabjax.guards import GUARDS, check
from stabjax.guards.given import Guards
from stabjax.transforms._common import (
    check_inner,
    check_leaves,
    fresh_state,
    judge_and_keep,
    listed,
    moving,
    require_loss,
)
from stabjax.transforms.guard import GuardState
from stabjax.types import Alert, Count, Flag, Guard, Scalar

Every = int | Callable[[Array], Any]


class AccumulateState(NamedTuple):
    """State of `accumulate`; its first four fields are those of optax's MultiSteps.

    Attributes:
        mini_step: Micro-batches in the mean.
        gradient_step: Updates emitted so far.
        inner_opt_state: State of the inner optimizer.
        acc_grads: Mean gradient, float32 at least; replaced, not added to, while
            ``mini_step`` is zero.
        mean_value: Mean of the values that came with them.
        tried: Micro-batches since the last emission, those left out included.
        emitted: Whether the last micro-step emitted an update.
        short: Updates emitted from fewer micro-batches than asked for.
        lost: Updates not emitted because they, or the new inner state, were not
            finite.
        core: Counters of micro-batches, and guard states by name.
        alerts: Bits of `stabjax.types.Alert` of the last micro-step.
        roll_back: A guard asked for a rollback in the last micro-step.
    """

    mini_step: Count
    gradient_step: Count
    inner_opt_state: PyTree
    acc_grads: PyTree
    mean_value: Scalar
    tried: Count
    emitted: Flag
    short: Count
    lost: Count
    core: judging.Core
    alerts: Count
    roll_back: Flag


class _Mean(NamedTuple):
    """What is accumulated: how many, and the means."""

    seen: Count
    gradients: PyTree
    value: Scalar


def accumulate(
    inner: optax.GradientTransformation,
    every: Every,
    *guards: Guards,
    on_refused: Literal["wait", "emit"] = "wait",
    form: Form | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Give the inner optimizer the mean gradient of every few micro-batches.

    ``mean += (g - mean) / (n + 1)`` over the accepted micro-batches, in float32. The
    guards judge each micro-batch by itself; one that is refused or not finite is left
    out of the mean and counted, where in `optax.MultiSteps` one NaN stays in the sum.
    Between emissions the update is zero. Guards that shall judge the mean go around
    ``inner``; they, and a plateau there, are given the mean of the values.

    On CPU the inner optimizer runs only when it emits, in a conditional. On GPU and
    TPU it runs every time and its result is selected: a conditional there waits for
    the host and copies what it returns. Where ``inner`` costs more than that, such as
    one that multiplies matrices, ask for ``form="branch"``.

    Args:
        inner: The optimizer, with guards of its own if the mean is to be judged.
        every: Micro-batches per update, >= 1, or a schedule of it over the updates
            emitted so far.
        *guards: Guards that judge micro-batches, in any order, or sequences of them.
        on_refused: ``"wait"`` replaces a micro-batch that is left out by the next;
            ``"emit"`` emits after ``every`` attempts with those that are left, and
            nothing if none is.
        form: ``"branch"`` or ``"select"``; None: branch on CPU.

    Returns:
        A gradient transformation that takes extra arguments and forwards them.

    Raises:
        TypeError: If a guard is not a `Guard`, ``inner`` no optax transformation, or
            ``every`` a guard; in `init`, if a leaf of the parameters is no array.
        ValueError: If an option is out of range or a guard scales the loss; in
            `update`, if a guard reads the loss and no ``value`` is given.

    Source:
        The mean as in `optax.MultiSteps` (Welford 1962).

    Example:
        >>> optimizer = accumulate(optax.sgd(1.0), 2)
        >>> params = jnp.zeros(())
        >>> state = optimizer.init(params)
        >>> for gradient in (1.0, jnp.nan, 3.0):
        ...     updates, state = optimizer.update(jnp.asarray(gradient), state, params)
        ...     print(float(updates), int(state.core.refused))
        0.0 0
        0.0 1
        -2.0 1
    """
    name = "accumulate"
    check_inner(name, inner)
    _check_every(name, every)
    check.one_of(name, "on_refused", on_refused, ("wait", "emit"))
    if form is not None:
        check.one_of(name, "form", form, ("branch", "select"))
    accumulator = _Accumulator(
        inner=optax.with_extra_args_support(inner),
        every=every if callable(every) else lambda _: every,
        guards=listed(name, *guards),
        waits=on_refused == "wait",
        form=form or ("branch" if jax.default_backend() == "cpu" else "select"),
    )
    return optax.GradientTransformationExtraArgs(accumulator.init, accumulator.update)


@dataclasses.dataclass(frozen=True)
class _Accumulator:
    """The fixed parts of `accumulate`."""

    inner: optax.GradientTransformationExtraArgs
    every: Callable[[Array], Any]
    guards: tuple[Guard, ...]
    waits: bool
    form: Form

    def init(self, params: PyTree) -> AccumulateState:
        """Return the state before the first micro-batch."""
        check_leaves("accumulate", params)

        def zero() -> Count:
            return jnp.zeros((), jnp.int32)

        return AccumulateState(
            mini_step=zero(),
            gradient_step=zero(),
            inner_opt_state=self.inner.init(params),
            acc_grads=jax.tree.map(lambda x: jnp.zeros(x.shape, _wide(x)), params),
            mean_value=jnp.zeros((), jnp.float32),
            tried=zero(),
            emitted=jnp.zeros((), jnp.bool_),
            short=zero(),
            lost=zero(),
            core=judging.init_core(self.guards),
            alerts=zero(),
            roll_back=jnp.zeros((), jnp.bool_),
        )

    def update(
        self,
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[PyTree, AccumulateState]:
        """Obey the contract of optax."""
        require_loss("accumulate", self.guards, value)
        params = moving(params, updates)
        outcome = self._take_in(updates, state, value)
        mean: _Mean = outcome.inner
        wanted = jnp.asarray(self.every(state.gradient_step), jnp.int32)
        full = mean.seen >= wanted if self.waits else state.tried + 1 >= wanted
        due = (
            full & (mean.seen > 0) & ~outcome.core.halted & ~outcome.decision.roll_back
        )
        if value is not None:
            extra_args["value"] = mean.value
        gradients = jax.tree.map(
            lambda m, g: m.astype(g.dtype), mean.gradients, updates
        )
        proposed, inner_state, fine = self._emit(
            due, gradients, state.inner_opt_state, params, extra_args
        )
        if any(given.resets_moments for given in self.guards):
            fresh = fresh_state(self.inner, params, updates, inner_state)
            inner_state = select(outcome.decision.reset_moments, fresh, inner_state)
        before = state._replace(inner_opt_state=inner_state)
        short = mean.seen < wanted
        after = _advanced(before, outcome, full=full, due=due, fine=fine, short=short)
        return scale_leaves(proposed, outcome.decision.update_scale), after

    def _take_in(self, gradients: PyTree, state: Any, value: Any) -> Outcome:
        """Judge a micro-batch and, if it is accepted, move the mean."""
        loss = jnp.float32(0.0) if value is None else jnp.asarray(value, jnp.float32)

        def move(gradients: PyTree, mean: _Mean) -> _Mean:
            gradients = jax.tree.map(
                lambda m, g: _moved(m, g, mean.seen), mean.gradients, gradients
            )
            return _Mean(mean.seen + 1, gradients, _moved(mean.value, loss, mean.seen))

        applier = judge_and_keep(move, self.guards, self.form)
        trial = Trial(
            gradients=gradients,
            loss=loss,
            components={},
            params=(),
            inner=_Mean(state.mini_step, state.acc_grads, state.mean_value),
            extra={},
        )
        return applier(trial, state.core)

    def _emit(
        self,
        due: Flag,
        gradients: PyTree,
        inner_state: PyTree,
        params: PyTree | None,
        extra_args: dict[str, Any],
    ) -> tuple[PyTree, PyTree, Flag]:
        """Return the update, or zeros, the inner state, and whether all is finite."""
        checked = not self._is_trusted(
            inner_state, gradients if params is None else params
        )

        def run(gradients: PyTree, before: PyTree, params: PyTree | None):
            updates, after = self.inner.update(gradients, before, params, **extra_args)
            after = jax.tree.map(lambda x, old: x.astype(old.dtype), after, before)
            if not checked:
                return updates, after, jnp.ones((), jnp.bool_)
            zeros = jax.tree.map(jnp.zeros_like, updates)
            fine = ~becomes_nonfinite(zeros, updates) & ~becomes_nonfinite(
                before, after
            )
            return select(fine, updates, zeros), select(fine, after, before), fine

        shapes = jax.eval_shape(run, gradients, inner_state, params)[0]
        zeros = jax.tree.map(jnp.zeros_like, shapes)
        if self.form == "select":
            updates, after, fine = run(gradients, inner_state, params)
            return select(due, updates, zeros), select(due, after, inner_state), fine

        def rest(gradients: PyTree, before: PyTree, params: PyTree | None):
            del gradients, params
            return zeros, before, jnp.ones((), jnp.bool_)

        return jax.lax.cond(due, run, rest, gradients, inner_state, params)

    def _is_trusted(self, inner_state: PyTree, params: PyTree) -> bool:
        """Return whether the inner optimizer stays finite by itself."""
        if isinstance(inner_state, GuardState):
            return True
        return holds_squares(inner_state) and survives_probe(self.inner, params)


def _advanced(
    state: AccumulateState,
    outcome: Outcome,
    *,
    full: Flag,
    due: Flag,
    fine: Flag,
    short: Flag,
) -> AccumulateState:
    """Count a micro-step: the round is full, an update is due, and it is finite."""
    mean: _Mean = outcome.inner
    emitted, lost = due & fine, due & ~fine
    return state._replace(
        mini_step=jnp.where(full, 0, mean.seen),
        gradient_step=state.gradient_step + emitted.astype(jnp.int32),
        acc_grads=mean.gradients,
        mean_value=mean.value,
        tried=jnp.where(full, 0, state.tried + 1),
        emitted=emitted,
        short=state.short + (emitted & short).astype(jnp.int32),
        lost=state.lost + lost.astype(jnp.int32),
        core=outcome.core,
        alerts=outcome.decision.alerts | Alert.NONFINITE_STATE.when(lost),
        roll_back=outcome.decision.roll_back,
    )


def _check_every(name: str, every: Any) -> None:
    guards = every if isinstance(every, Sequence) else [every]
    made = getattr(every, "__name__", None) in GUARDS
    if made or any(isinstance(given, Guard) for given in guards):
        raise TypeError(
            f"{name}: every must be a whole number >= 1, or a schedule of it, got "
            f"{shown(every)}; write accumulate(inner, 4, guards)."
        )
    if not callable(every):
        check.count(name, "every", every, low=1)


def _wide(leaf: Any) -> Any:
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return wide if is_inexact(leaf) else leaf.dtype


def _moved(mean: Array, value: Array, seen: Count) -> Array:
    if not is_inexact(mean):
        return value
    value = value.astype(mean.dtype)
    share = (seen + 1).astype(jnp.float32).astype(mean.dtype)
    # The first one replaces what an earlier round has left.
    return jnp.where(seen == 0, value, mean + (value - mean) / share)
