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
from stabjax.core.across import AxisName, sums_over_shards
from stabjax.core.blame import NONE, lost_parameter
from stabjax.core.elementwise import (
    apart,
    clip_leaves,
    divided,
    nonfinite_elements,
    repair,
    scale_leaves,
    select,
)
from stabjax.core.frozen import without_frozen
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
from stabjax.core.update_size import (
    Strides,
    runs_thinned,
    size_of,
    thin_strides,
    thinned,
)
from stabjax.types import (
    Alert,
    Count,
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
        moments_finite: Whether the optimizer state is finite before the step.
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
    moments_finite: Flag | bool = True


class Sample(NamedTuple):
    """What foretells the size of an update.

    Attributes:
        strides: Which elements are looked at.
        trial: The step on these alone; None: the optimizer needs whole leaves, and its
            update itself is looked at.
    """

    strides: Strides
    trial: Trial | None


class Outcome(NamedTuple):
    """What became of a step.

    Attributes:
        params: Parameters after it, unchanged if refused.
        inner: Inner state after it, unchanged if refused.
        applied: Whether it was applied.
        stats: What was measured.
        decision: The combined verdict.
        rings: Alert bits of each guard.
        core: Counters and guard states after the step.
    """

    params: Params
    inner: PyTree
    applied: Flag
    stats: StepStats
    decision: Verdict
    rings: tuple[Count, ...]
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
        trained: For each leaf whether the optimizer may move it; the gradients of
            the others count as zero. None: all.
        axis_name: The mapped axis that shards the leaves inside `jax.shard_map`.
    """

    optimizer: optax.GradientTransformationExtraArgs
    guards: Sequence[Guard] | None
    form: Form
    finite_check: FiniteCheck
    spread: bool
    trained: tuple[bool, ...] | None = None
    axis_name: AxisName = None

    def __call__(self, trial: Trial, core: judging.Core) -> Outcome:
        """Measure, judge and apply or refuse."""
        gradients = without_frozen(trial.gradients, self.trained)
        trial = trial._replace(gradients=gradients)
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
        gradients, repaired = trial.gradients, jnp.zeros((), jnp.int32)
        if self._repairs:
            repaired, gradients = nonfinite_elements(gradients), repair(gradients)
            if self.axis_name is not None:
                repaired = jax.lax.psum(repaired, self.axis_name)
        sums = sums_in_both_units(gradients, spread=self.spread)
        return Measured(sums_over_shards(sums, gradients, self.axis_name), repaired)

    def _judge(
        self, trial: Trial, layout: Layout, core: judging.Core, measured: Measured
    ) -> tuple[judging.Judged, StepStats]:
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
            moments_finite=trial.moments_finite,
        )
        squarable = self.finite_check == "headroom"
        judged = judging.judge(self.guards or (), core, stats, squarable=squarable)
        return judged, stats

    @property
    def _bounds(self) -> bool:
        """Whether updates are bounded; a sample would gather sharded ones."""
        bounding = any(guard.bounds_updates for guard in self.guards or ())
        return bounding and not self.spread and self.axis_name is None

    def _sampled(self, trial: Trial) -> Sample | None:
        """Return a trial on few elements, that foretells the size of the update."""
        if not self._bounds:
            return None
        strides = thin_strides(trial.params, self.trained)
        params = thinned(trial.params, trial.params, strides)
        gradients = thinned(trial.gradients, trial.params, strides)
        inner = thinned(trial.inner, trial.params, strides)
        small = trial._replace(gradients=gradients, params=params, inner=inner)
        runs = runs_thinned(self.optimizer, gradients, inner, params, trial.extra)
        return Sample(strides, small if runs else None)

    def _proposed(
        self, trial: Trial, decision: Verdict, norm_unit: Scalar
    ) -> tuple[PyTree, PyTree]:
        """Run the inner optimizer; return its updates and its new state."""
        scale = decision.gradient_scale
        if trial.unit is not None:
            scale = divided(scale, trial.unit)
        # Repaired here once more: what is kept from measuring would be one more tree.
        gradients = repair(trial.gradients) if self._repairs else trial.gradients
        gradients = clip_leaves(gradients, scale, norm_unit)
        return self.optimizer.update(
            gradients, trial.inner, trial.params, **trial.extra
        )

    def _update(
        self,
        trial: Trial,
        sampled: Sample | None,
        judged: judging.Judged,
        norm_unit: Scalar,
    ):
        """Return new params, new state, what is lost, and what was judged, bounded.

        What is lost is -1 for nothing, or the first parameter, see
        `blame.lost_parameter`.
        """
        decision = judged.decision
        updates, inner = self._proposed(trial, decision, norm_unit)
        if sampled is not None:
            if sampled.trial is None:
                few = thinned(updates, trial.params, sampled.strides)
            else:
                few, _ = self._proposed(sampled.trial, decision, norm_unit)
            size = size_of(few, sampled.strides)
            judged = judging.bound_update(judged, self.guards or (), size)
            decision = judged.decision
        updates = scale_leaves(updates, decision.update_scale)
        params = optax.apply_updates(trial.params, updates)
        if self.finite_check == "outcome":
            lost = lost_parameter(
                trial.params, params, trial.inner, inner, self.axis_name
            )
            return params, inner, jnp.where(decision.waive, NONE, lost), judged

        def keep(new: jax.Array, old: jax.Array) -> jax.Array:
            # The last line of defense: nothing turns non-finite unless it is waived.
            fine = jnp.isfinite(new) | decision.waive if is_inexact(new) else True
            return jnp.where(fine, new, old)

        kept = jax.tree.map(keep, params, trial.params)
        return kept, inner, jnp.int32(NONE), judged

    def _unguarded(self, trial: Trial, core: judging.Core) -> Outcome:
        """Measure for the telemetry and apply, whatever it is."""
        if self.form == "select":
            measured = self._measured(trial)
        else:
            plain = sums_of_squares(trial.gradients)
            measured = remeasured(trial.gradients, plain, repairs=False)
        layout = layout_of(trial.gradients)
        seen, stats = self._judge(trial, layout, core, measured)
        updates, inner = self.optimizer.update(
            trial.gradients, trial.inner, trial.params, **trial.extra
        )
        params = optax.apply_updates(trial.params, updates)
        judged = seen._replace(decision=verdict(alerts=seen.decision.alerts))
        return self._outcome(params, inner, jnp.int32(NONE), stats, judged, core)

    def _select(self, trial: Trial, core: judging.Core) -> Outcome:
        layout, measured = layout_of(trial.gradients), self._measured(trial)
        judged, stats = self._judge(trial, layout, core, measured)
        params, inner, lost, judged = self._update(
            trial, self._sampled(trial), judged, stats.norm_unit
        )
        applied = judged.decision.accept & (lost < 0)
        params = select(applied, params, trial.params)
        inner = select(applied, inner, trial.inner)
        return self._outcome(params, inner, lost, stats, judged, core)

    def _branch(self, trial: Trial, core: judging.Core) -> Outcome:
        # Reduced across devices, both sums in one pass are one exchange instead of two.
        together = self.spread or self.axis_name is not None
        whole = self._measured(trial) if together else None
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
        first = whole or Measured(Sums(plain, plain, plain), jnp.zeros((), jnp.int32))
        shapes = judge(scalars, packed, first)
        nothing = jnp.int32(NONE)
        # Cut out before the loop, in which the leaves are written over.
        sampled = self._sampled(trial)

        def decide(seen, lost, params, inner):
            measured = whole or remeasured(
                trial.gradients, plain, repairs=self._repairs
            )
            judged, stats = judge(scalars, packed, measured)
            to_apply = judged.decision.accept
            seen = pack((judged, stats), by_place=True)
            return no, to_apply, seen, lost, params, inner

        def apply(seen, lost, params, inner):
            del lost
            now = trial._replace(params=params, inner=inner)
            judged, stats = unpack(seen, shapes)
            scale = apart(judged.decision.gradient_scale)
            decision = judged.decision._replace(gradient_scale=scale)
            new_params, new_inner, lost, judged = self._update(
                now, sampled, judged._replace(decision=decision), stats.norm_unit
            )
            if sampled is not None:
                seen = pack((judged, stats), by_place=True)
            if self.finite_check == "outcome":
                new_params = select(lost < 0, new_params, params)
                new_inner = select(lost < 0, new_inner, inner)
            return no, no, seen, lost, new_params, new_inner

        def body(carry: Any):
            _, to_apply, *rest = carry
            # Both in one conditional, so that the large buffers are updated in
            # place, and the pass over them for overflow costs nothing where rare.
            return jax.lax.cond(to_apply, apply, decide, *rest)

        def unfinished(carry: Any) -> Flag:
            # On two flags: of a loop on one value, XLA takes it for the counter, and
            # copies the whole body in each pass to see how that is counted.
            return carry[0] | carry[1]

        seen = pack(jax.tree.map(jnp.zeros_like, shapes))
        carry = (yes, no, seen, nothing, trial.params, trial.inner)
        carry = jax.lax.while_loop(unfinished, body, carry)
        seen, lost, params, inner = carry[2:]
        judged, stats = unpack(seen, shapes)
        return self._outcome(params, inner, lost, stats, judged, core)

    def _outcome(
        self,
        params: Params,
        inner: PyTree,
        lost: Count,
        stats: StepStats,
        judged: judging.Judged,
        core: judging.Core,
    ) -> Outcome:
        guards = self.guards or ()
        judged, applied, stats = settled(judged, lost, stats)
        core = judging.advance(core, guards, judged, stats, applied)
        decision, rings = judged.decision, judged.rings
        return Outcome(params, inner, applied, stats, decision, rings, core)


def settled(
    judged: judging.Judged, lost: Count, stats: StepStats
) -> tuple[judging.Judged, Flag, StepStats]:
    """Return what was judged, with what became of it, and whether it was applied.

    Args:
        judged: What the guards said.
        lost: What an accepted step would have lost, see `blame.lost_parameter`.
        stats: What was measured.
    """
    decision = judged.decision
    failed = decision.accept & (lost >= 0)
    alerts = decision.alerts | Alert.NONFINITE_STATE.when(failed)
    judged = judged._replace(decision=decision._replace(alerts=alerts))
    named = failed & (lost < len(stats.layout.leaves)) & (stats.first_bad_leaf < 0)
    leaf = jnp.where(named, lost, stats.first_bad_leaf)
    stats = dataclasses.replace(stats, first_bad_leaf=leaf)
    return judged, decision.accept & ~failed, stats


def fresh_state(
    optimizer: optax.GradientTransformation, params: Params, like: PyTree
) -> PyTree:
    """Return a state with the first moments of an optimizer, in the dtypes of ``like``.

    What only counts, as a schedule does, and injected hyperparameters stay as they are.
    """
    fresh = _renewed(optimizer.init(params), like)
    return jax.tree.map(lambda new, old: new.astype(old.dtype), fresh, like)


def _renewed(new: PyTree, old: PyTree) -> PyTree:
    if not any(is_inexact(leaf) for leaf in jax.tree.leaves(new)):
        return old
    if hasattr(new, "hyperparams") and hasattr(new, "inner_state"):
        return old._replace(inner_state=_renewed(new.inner_state, old.inner_state))
    if isinstance(new, tuple) and not hasattr(new, "_fields"):
        return tuple(_renewed(n, o) for n, o in zip(new, old, strict=True))
    return new


def settled_state(
    optimizer: optax.GradientTransformationExtraArgs, state: PyTree, params: Params
) -> PyTree:
    """Return the state of an optimizer in the dtypes that it has after an update.

    Some optimizers widen their state in the first update, such as moments of bfloat16
    under float32 hyperparameters; a loop needs one dtype throughout.

    Args:
        optimizer: The optimizer.
        state: Its first state.
        params: The parameters.
    """

    def update(params: Params, state: PyTree) -> PyTree:
        return optimizer.update(params, state, params, value=jnp.float32(0))[1]

    after = jax.eval_shape(update, params, state)
    return jax.tree.map(lambda x, y: jnp.asarray(x, y.dtype), state, after)
