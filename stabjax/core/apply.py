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
from stabjax.core.elementwise import (
    apart,
    becomes_nonfinite,
    divided,
    nonfinite_elements,
    repair,
    scale_leaves,
    select,
)
from stabjax.core.layout import is_inexact, layout_of
from stabjax.core.measure import step_stats
from stabjax.core.packing import Packed, pack, unpack
from stabjax.core.sums import (
    Measured,
    Sums,
    remeasured,
    sums_in_both_units,
    sums_of_squares,
)
from stabjax.types import (
    Alert,
    Flag,
    Guard,
    Layout,
    Params,
    Scalar,
    StepStats,
    Verdict,
    verdict,
)

Form = Literal["select", "branch"]
FiniteCheck = Literal["outcome", "headroom"]


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
        metrics: What else the loss reports, see `measure.metrics_of`.
        unit: What the loss was multiplied by before it was differentiated, or None.
    """

    gradients: PyTree
    loss: Scalar
    components: dict[str, Scalar]
    params: Params
    inner: PyTree
    extra: Mapping[str, Any]
    model_state_finite: Flag | bool = True
    metrics: dict[str, Scalar] | None = None
    unit: Scalar | None = None


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
        spread: Whether parameters are sharded, see `sums.sums_in_both_units`.
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

    @property
    def _repairs(self) -> bool:
        return any(guard.repairs for guard in self.guards or ())

    def _measured(self, trial: Trial) -> Measured:
        """Measure the gradients as they count: repaired, if a guard repairs."""
        if not self._repairs:
            return Measured(sums_in_both_units(trial.gradients, spread=self.spread))
        sums = sums_in_both_units(repair(trial.gradients), spread=self.spread)
        return Measured(sums, nonfinite_elements(trial.gradients))

    def _judge(
        self, trial: Trial, layout: Layout, core: judging.Core, measured: Measured
    ) -> tuple[tuple[Any, ...], Verdict, StepStats]:
        stats = step_stats(
            layout,
            measured.sums,
            trial.loss,
            trial.components,
            core.progress(),
            trial.model_state_finite,
            metrics=trial.metrics,
            repaired=measured.repaired,
            unit=trial.unit,
        )
        squarable = self.finite_check == "headroom"
        states, decision = judging.judge(
            self.guards or (), core, stats, squarable=squarable
        )
        return states, decision, stats

    def _update(self, trial: Trial, decision: Verdict):
        """Run the inner optimizer; return new params, new state, and if all is well."""
        scale = decision.gradient_scale
        if trial.unit is not None:
            scale = divided(scale, trial.unit)
        # Repaired here once more: what is kept from measuring would be one more tree.
        gradients = repair(trial.gradients) if self._repairs else trial.gradients
        gradients = scale_leaves(gradients, scale)
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
            measured = self._measured(trial)
        else:
            plain = sums_of_squares(trial.gradients)
            measured = remeasured(trial.gradients, plain, repairs=False)
        layout = layout_of(trial.gradients)
        _, seen, stats = self._judge(trial, layout, core, measured)
        updates, inner = self.optimizer.update(
            trial.gradients, trial.inner, trial.params, **trial.extra
        )
        params = optax.apply_updates(trial.params, updates)
        decision = verdict(alerts=seen.alerts)
        applied = jnp.ones((), jnp.bool_)
        return _outcome(params, inner, applied, stats, decision, core, ())

    def _select(self, trial: Trial, core: judging.Core) -> Outcome:
        layout, measured = layout_of(trial.gradients), self._measured(trial)
        states, decision, stats = self._judge(trial, layout, core, measured)
        params, inner, fine = self._update(trial, decision)
        applied = decision.accept & fine
        params = select(applied, params, trial.params)
        inner = select(applied, inner, trial.inner)
        return _outcome(params, inner, applied, stats, decision, core, states)

    def _branch(self, trial: Trial, core: judging.Core) -> Outcome:
        # Reduced across devices, both sums in one pass are one exchange instead of two.
        whole = self._measured(trial) if self.spread else None
        plain = whole.sums.plain if whole else sums_of_squares(trial.gradients)
        layout = layout_of(trial.gradients)
        # Only scalars are judged; as two vectors they cross the loop in, and out.
        scalars = trial._replace(gradients=None, params=None, inner=None, extra={})
        packed, core_shapes = pack(core, by_place=True), core
        no, yes = jnp.zeros((), jnp.bool_), jnp.ones((), jnp.bool_)

        @jax.jit
        def judge(scalars: Trial, packed: Packed, measured: Measured):
            core = unpack(packed, core_shapes)
            return self._judge(scalars, layout, core, measured)

        # Judged once for the shapes alone; nothing reads the values, so XLA drops it.
        first = whole or Measured(Sums(plain, plain), jnp.zeros((), jnp.int32))
        shapes = judge(scalars, packed, first)

        def decide(judged, applied, params, inner):
            measured = whole or remeasured(
                trial.gradients, plain, repairs=self._repairs
            )
            judged = judge(scalars, packed, measured)
            to_apply = judged[1].accept
            return no, to_apply, pack(judged, by_place=True), applied, params, inner

        def apply(judged, applied, params, inner):
            del applied
            now = trial._replace(params=params, inner=inner)
            _, decision, _ = unpack(judged, shapes)
            scale = apart(decision.gradient_scale)
            decision = decision._replace(gradient_scale=scale)
            new_params, new_inner, fine = self._update(now, decision)
            if self.finite_check == "outcome":
                new_params = select(fine, new_params, params)
                new_inner = select(fine, new_inner, inner)
            return no, no, judged, fine, new_params, new_inner

        def body(carry: Any):
            _, to_apply, *rest = carry
            # Both in one conditional, so that the large buffers are updated in
            # place, and the pass over them for overflow costs nothing where rare.
            return jax.lax.cond(to_apply, apply, decide, *rest)

        def unfinished(carry: Any) -> Flag:
            # On two flags: of a loop on one value, XLA takes it for the counter, and
            # copies the whole body in each pass to see how that is counted.
            return carry[0] | carry[1]

        judged = pack(jax.tree.map(jnp.zeros_like, shapes))
        carry = (yes, no, judged, no, trial.params, trial.inner)
        carry = jax.lax.while_loop(unfinished, body, carry)
        judged, applied, params, inner = carry[2:]
        states, decision, stats = unpack(judged, shapes)
        return _outcome(params, inner, applied, stats, decision, core, states)


def fresh_state(
    optimizer: optax.GradientTransformation, params: Params, like: PyTree
) -> PyTree:
    """Return the first state of an optimizer, in the dtypes of ``like``."""
    fresh = optimizer.init(params)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), fresh, like)


def _outcome(params, inner, applied, stats, decision, core, states) -> Outcome:
    state_lost = decision.accept & ~applied
    alerts = decision.alerts | Alert.NONFINITE_STATE.when(state_lost)
    decision = decision._replace(alerts=alerts)
    core = judging.advance(core, states, decision, applied)
    return Outcome(params, inner, applied, stats, decision, core)
