"""Guards inside an optimizer's own elementwise formula.

A guard around an optimizer that it cannot look into has to keep the old state and the
new one until it knows which to return. Where the formula is known, the decision comes
first: the moments are written under it, and the update is formed from the moments that
were kept. That reads and writes what the optimizer does, and the gradient once more.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core.apply import Form, Outcome, Trial
from stabjax.core.elementwise import clip_leaves, repair, scale_leaves, select
from stabjax.core.headroom import holds_squares
from stabjax.core.layout import is_inexact
from stabjax.guards.given import Guards
from stabjax.transforms._common import (
    check_leaves,
    fresh_state,
    judge_and_keep,
    listed,
    moving,
    require_loss,
)
from stabjax.transforms.guard import after_step, guard
from stabjax.types import Flag, Guard


class Formula(NamedTuple):
    """The part of an optimizer that keeps moments.

    Attributes:
        moments: ``(gradients, state) -> state``, elementwise, in full precision.
        direction: ``(gradients, before, after) -> updates``, elementwise, from the
            moments before and after.
        from_before: Whether the direction is formed from the moments before, which
            then must not be overwritten first.
    """

    moments: Callable[[PyTree, Any], Any]
    direction: Callable[[PyTree, Any, Any], PyTree]
    from_before: bool = False


def fold(
    name: str,
    optimizer: optax.GradientTransformation,
    formula: Formula,
    tail: Sequence[optax.GradientTransformation],
    rates: Sequence[Any],
    *,
    guards: Guards,
    form: Form | None,
) -> optax.GradientTransformationExtraArgs:
    """Return ``optimizer`` with guards folded into its formula.

    Args:
        name: What to call it in messages.
        optimizer: A chain of a link that computes ``formula``, and ``tail``. Its
            state is the inner state, so that states are exchanged with it freely.
        formula: The first link, taken apart.
        tail: The links behind it.
        rates: What each link of ``tail`` multiplies by, a number or a schedule.
        guards: The guards.
        form: See `stabjax.train_step.make_train_step`.

    Returns:
        The transformation, with the state of `guard`.
    """
    folded = _Folded(
        name=name,
        optimizer=optimizer,
        formula=formula,
        tail=optax.chain(*tail),
        rates=tuple(rates),
        guards=listed(name, guards),
        form=form or ("branch" if jax.default_backend() == "cpu" else "select"),
    )
    return optax.GradientTransformationExtraArgs(folded.init, folded.update)


@dataclasses.dataclass(frozen=True)
class _Folded:
    """The fixed parts of a folded optimizer; see `fold`."""

    name: str
    optimizer: optax.GradientTransformation
    formula: Formula
    tail: optax.GradientTransformationExtraArgs
    rates: tuple[Any, ...]
    guards: tuple[Guard, ...]
    form: Form

    @property
    def around(self) -> optax.GradientTransformationExtraArgs:
        """The same from outside, for states that the formula does not fit."""
        return guard(self.optimizer, self.guards)

    def init(self, params: PyTree) -> Any:
        """Return the state before the first step."""
        check_leaves(self.name, params)
        return self.around.init(params)

    def update(
        self,
        updates: PyTree,
        state: Any,
        params: PyTree | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[PyTree, Any]:
        """Obey the contract of optax."""
        require_loss(self.name, self.guards, value)
        params = moving(params, updates)
        before, behind = state.inner_state[0], tuple(state.inner_state[1:])
        exact = jax.eval_shape(self.formula.moments, updates, before)
        if not _fits(exact, before):
            return self.around.update(updates, state, params, value=value, **extra_args)
        rounded = _dtypes(exact) != _dtypes(before)
        outcome = self._kept_moments(updates, state, value, late=rounded)
        gradients = self._as_judged(updates, outcome)
        # Optax forms the update from moments as they are before they are rounded.
        unrounded = jax.tree.map(
            lambda kept, exact: kept if kept.dtype == exact.dtype else exact,
            outcome.inner,
            self.formula.moments(gradients, before),
        )
        direction = self.formula.direction(gradients, before, unrounded)
        proposed, behind_after = self.tail.update(direction, behind, params)
        behind = select(outcome.applied, behind_after, behind)
        inner_state = (outcome.inner, *behind)
        if any(given.resets_moments for given in self.guards):
            fresh = fresh_state(self.optimizer, params, updates, inner_state)
            inner_state = select(outcome.decision.reset_moments, fresh, inner_state)
        after = after_step(
            state,
            inner_state,
            outcome.core,
            outcome.decision,
            outcome.stats,
            outcome.applied,
        )
        return _kept_updates(proposed, outcome), after

    def _kept_moments(
        self, gradients: PyTree, state: Any, value: Any, *, late: bool
    ) -> Outcome:
        def moments(gradients: PyTree, before: Any) -> Any:
            after = self.formula.moments(gradients, before)
            return jax.tree.map(lambda x, old: x.astype(old.dtype), after, before)

        # What is read after the loop cannot be overwritten in it.
        last = late or self.formula.from_before
        applier = judge_and_keep(moments, self.guards, "select" if last else self.form)
        trial = Trial(
            gradients=gradients,
            loss=jnp.float32(0.0) if value is None else jnp.asarray(value),
            components={},
            params=(),
            inner=state.inner_state[0],
            extra={},
            model_state_finite=self._rates_finite(state.inner_state[1:]),
        )
        return applier(trial, state.core)

    def _rates_finite(self, behind: tuple[Any, ...]) -> Flag:
        fine = jnp.ones((), jnp.bool_)
        for rate, link in zip(self.rates, behind, strict=True):
            now = rate(optax.tree.get(link, "count")) if callable(rate) else rate
            fine &= jnp.all(jnp.isfinite(jnp.asarray(now)))
        return fine

    def _as_judged(self, gradients: PyTree, outcome: Outcome) -> PyTree:
        if any(given.repairs for given in self.guards):
            gradients = repair(gradients)
        scale = outcome.decision.gradient_scale
        return clip_leaves(gradients, scale, outcome.stats.norm_unit)


def _kept_updates(updates: PyTree, outcome: Outcome) -> PyTree:
    updates = scale_leaves(updates, outcome.decision.update_scale)

    def kept(leaf: jax.Array) -> jax.Array:
        fine = jnp.isfinite(leaf) | outcome.decision.waive if is_inexact(leaf) else True
        zero = jnp.zeros((), leaf.dtype)
        return jnp.where(outcome.applied & fine, leaf, zero)

    return jax.tree.map(kept, updates)


def _fits(exact: Any, before: Any) -> bool:
    """Return whether bounding the gradient is enough to keep these moments finite."""
    pairs = zip(jax.tree.leaves(exact), jax.tree.leaves(before), strict=True)
    same_kind = all(is_inexact(new) == is_inexact(old) for new, old in pairs)
    return same_kind and holds_squares(before)


def _dtypes(tree: Any) -> list[Any]:
    return [leaf.dtype for leaf in jax.tree.leaves(tree)]
