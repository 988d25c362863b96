"""Scale, inner update, apply and refusal: once, in the form the backend likes.

Two forms of the same function. *Select* computes everything and selects: on GPU and
TPU that is one read and one write of each buffer, and nothing waits for the host.
*Branch* runs the inner optimizer inside a conditional: on CPU, where XLA does not
fuse several outputs, selecting would keep the old and the new state alive. Its
loop judges, and then applies what was accepted.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core import judge as judging
from stabjax.core.layout import is_inexact
from stabjax.core.measure import (
    SMALL_UNIT,
    Sums,
    is_ambiguous,
    step_stats,
    sums_in_both_units,
    sums_of_squares,
)
from stabjax.core.packing import pack, unpack
from stabjax.types import (
    Alert,
    Flag,
    GroupScale,
    Guard,
    Params,
    Scalar,
    StepStats,
    Verdict,
    verdict,
)

Form = Literal["select", "branch"]
FiniteCheck = Literal["outcome", "headroom"]
# The phases of the branch form.
_JUDGE, _APPLY, _DONE = 0, 1, 2


class Trial(NamedTuple):
    """A step on trial: what is measured and what is at stake.

    Attributes:
        gradients: Gradient of the loss with respect to ``params``.
        loss: Total loss.
        components: Named components, see `measure.components_of`.
        params: Parameters before the step.
        inner: State of the inner optimizer before the step.
        extra: Extra arguments for the inner optimizer, ``value`` among them.
        model_state_finite: Whether the new model state is finite.
    """

    gradients: PyTree
    loss: Scalar
    components: dict[str, Scalar]
    params: Params
    inner: PyTree
    extra: Mapping[str, Any]
    model_state_finite: Flag | bool = True


class Outcome(NamedTuple):
    """What became of a step.

    Attributes:
        params: Parameters after it, unchanged if refused.
        inner: Inner state after it, unchanged if refused.
        applied: Whether it was applied.
        stats: What was measured.
        decision: The combined verdict.
        core: Counters and guard states after the step.
    """

    params: Params
    inner: PyTree
    applied: Flag
    stats: StepStats
    decision: Verdict
    core: judging.Core


@dataclasses.dataclass(frozen=True)
class Applier:
    """The fixed parts of a guarded step.

    Attributes:
        optimizer: The inner optimizer.
        guards: The guards, or None for a step that applies everything.
        form: How a refusal is expressed, see the module.
        finite_check: ``"outcome"`` checks new parameters and new optimizer state
            before they replace the old, which reads them once more. ``"headroom"``
            refuses gradients so large that the optimizer state could overflow,
            and never writes a non-finite parameter; it costs nothing.
        spread: Whether parameters are sharded, see `measure.sums_in_both_units`.
    """

    optimizer: optax.GradientTransformationExtraArgs
    guards: Sequence[Guard] | None
    form: Form
    finite_check: FiniteCheck
    spread: bool

    def __call__(self, trial: Trial, core: judging.Core) -> Outcome:
        """Measure, judge and apply or refuse."""
        if self.guards is None:
            return self._unguarded(trial, core)
        if self.form == "select":
            return self._select(trial, core)
        return self._branch(trial, core)

    def _judge(self, trial: Trial, core: judging.Core, sums: Sums):
        stats = step_stats(
            trial.gradients,
            sums,
            trial.loss,
            trial.components,
            core.progress(),
            trial.model_state_finite,
        )
        squarable = self.finite_check == "headroom"
        states, decision = judging.judge(
            self.guards or (), core, stats, squarable=squarable
        )
        return states, decision, stats

    def _update(self, trial: Trial, decision: Verdict):
        """Run the inner optimizer; return new params, new state, and if all is well."""
        gradients = scale_leaves(trial.gradients, decision.gradient_scale)
        updates, inner = self.optimizer.update(
            gradients, trial.inner, trial.params, **trial.extra
        )
        updates = scale_leaves(updates, decision.update_scale)
        params = optax.apply_updates(trial.params, updates)
        if self.finite_check == "outcome":
            fine = ~becomes_nonfinite(trial.params, params)
            fine &= ~becomes_nonfinite(trial.inner, inner)
            return params, inner, fine | decision.waive

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            # The last line of defense: nothing turns non-finite unless it is waived.
            fine = jnp.isfinite(new) | decision.waive if is_inexact(new) else True
            return jnp.where(fine, new, old)

        kept = jax.tree.map(keep, params, trial.params)
        return kept, inner, jnp.ones((), jnp.bool_)

    def _unguarded(self, trial: Trial, core: judging.Core) -> Outcome:
        """Measure for the telemetry and apply, whatever it is."""
        if self.form == "select":
            sums = sums_in_both_units(trial.gradients, spread=self.spread)
        else:
            sums = _remeasured(trial.gradients, sums_of_squares(trial.gradients))
        _, seen, stats = self._judge(trial, core, sums)
        updates, inner = self.optimizer.update(
            trial.gradients, trial.inner, trial.params, **trial.extra
        )
        params = optax.apply_updates(trial.params, updates)
        decision = verdict(alerts=seen.alerts)
        applied = jnp.ones((), jnp.bool_)
        return _outcome(params, inner, applied, stats, decision, core, ())

    def _select(self, trial: Trial, core: judging.Core) -> Outcome:
        sums = sums_in_both_units(trial.gradients, spread=self.spread)
        states, decision, stats = self._judge(trial, core, sums)
        params, inner, fine = self._update(trial, decision)
        applied = decision.accept & fine
        params = select(applied, params, trial.params)
        inner = select(applied, inner, trial.inner)
        return _outcome(params, inner, applied, stats, decision, core, states)

    def _branch(self, trial: Trial, core: judging.Core) -> Outcome:
        plain = sums_of_squares(trial.gradients)
        # What is judged crosses the loop as two vectors, not as eighty scalars.
        # Judged once for the shapes alone; nothing reads the values, so XLA drops it.
        shapes = self._judge(trial, core, Sums(plain, plain))

        def decide(judged, applied, params, inner):
            sums = _remeasured(trial.gradients, plain)
            judged = self._judge(trial, core, sums)
            go_on = jnp.where(judged[1].accept, jnp.int32(_APPLY), jnp.int32(_DONE))
            return go_on, pack(judged), applied, params, inner

        def apply(judged, applied, params, inner):
            del applied
            now = trial._replace(params=params, inner=inner)
            _, decision, _ = unpack(judged, shapes)
            new_params, new_inner, fine = self._update(now, decision)
            if self.finite_check == "outcome":
                new_params = select(fine, new_params, params)
                new_inner = select(fine, new_inner, inner)
            return jnp.int32(_DONE), judged, fine, new_params, new_inner

        def body(carry: Any):
            phase, *rest = carry
            # Both in one conditional, so that the large buffers are updated in
            # place, and the pass over them for overflow costs nothing where rare.
            return jax.lax.cond(phase == _APPLY, apply, decide, *rest)

        judged = pack(jax.tree.map(jnp.zeros_like, shapes))
        nothing = jnp.zeros((), jnp.bool_)
        carry = (jnp.int32(_JUDGE), judged, nothing, trial.params, trial.inner)
        carry = jax.lax.while_loop(lambda c: c[0] != _DONE, body, carry)
        _, judged, applied, params, inner = carry
        states, decision, stats = unpack(judged, shapes)
        return _outcome(params, inner, applied, stats, decision, core, states)


def _remeasured(gradients: PyTree, plain: jax.Array) -> Sums:
    """Add the sums in the small unit, in a second pass, where those in one overflow."""
    small = jax.lax.cond(
        is_ambiguous(plain),
        lambda: sums_of_squares(gradients, SMALL_UNIT),
        # Infinite: what is not measured proves nothing finite.
        lambda: jnp.full_like(plain, jnp.inf),
    )
    return Sums(plain, small)


def _outcome(params, inner, applied, stats, decision, core, states) -> Outcome:
    state_lost = decision.accept & ~applied
    alerts = decision.alerts | Alert.NONFINITE_STATE.when(state_lost)
    decision = decision._replace(alerts=alerts)
    core = judging.advance(core, states, decision, applied)
    return Outcome(params, inner, applied, stats, decision, core)


def select(condition: Flag, new: PyTree, old: PyTree) -> PyTree:
    """Return ``new`` where ``condition`` holds, else ``old``, leaf by leaf."""
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def scale_leaves(tree: PyTree, scale: Scalar | GroupScale) -> PyTree:
    """Multiply every floating-point leaf by one factor, or by that of its group.

    The product is taken in float32 at least and returned in the leaf's dtype.

    Args:
        tree: Any tree of arrays.
        scale: One factor, or one per group of leaves.

    Returns:
        The scaled tree.
    """
    leaves, structure = jax.tree.flatten(tree)
    if isinstance(scale, GroupScale):
        factors = scale.per_leaf()
    else:
        factors = (scale,) * len(leaves)
    scaled = [
        _times(leaf, factor) if is_inexact(leaf) else leaf
        for leaf, factor in zip(leaves, factors, strict=True)
    ]
    return jax.tree.unflatten(structure, scaled)


def _times(leaf: jax.Array, factor: Scalar) -> jax.Array:
    wide = jnp.promote_types(leaf.dtype, jnp.float32)
    return (leaf.astype(wide) * factor.astype(wide)).astype(leaf.dtype)


def becomes_nonfinite(old: PyTree, new: PyTree) -> Flag:
    """Return whether any element that was finite no longer is."""

    def lost(before: jax.Array, after: jax.Array) -> Flag:
        return jnp.any(jnp.isfinite(before) & ~jnp.isfinite(after))

    flags = [
        lost(before, after)
        for before, after in zip(
            jax.tree.leaves(old), jax.tree.leaves(new), strict=True
        )
        if is_inexact(after)
    ]
    return jnp.any(jnp.stack(flags)) if flags else jnp.zeros((), jnp.bool_)
