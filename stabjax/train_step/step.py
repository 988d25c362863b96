"""The step: gradient, measure, judge, apply, count, record."""

import dataclasses
import functools
import logging
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from stabjax.core import judge as judging
from stabjax.core import movement
from stabjax.core.across import AxisName, over_shards, shapes_inside
from stabjax.core.apply import (
    Applier,
    FiniteCheck,
    Form,
    Outcome,
    Trial,
    fresh_state,
    settled_state,
)
from stabjax.core.blame import becomes_nonfinite, first_damaged
from stabjax.core.elementwise import select
from stabjax.core.frozen import Trainable, only_frozen, trained
from stabjax.core.given import check_params, check_trained
from stabjax.core.headroom import holds_squares, survives_probe
from stabjax.core.layout import layout_of
from stabjax.core.measure import components_of, metrics_of
from stabjax.core.packing import pack, unpack
from stabjax.core.sums import sums_of_squares
from stabjax.health.ring import init_telemetry, record
from stabjax.train_step.blame import blamed_components
from stabjax.train_step.integer_leaves import gradient_of
from stabjax.train_step.state import Row, Snapshot, TrainState
from stabjax.types import Alert, Aux, Batch, Guard, LossFn, Params, Scalar

_LOGGER = logging.getLogger("stabjax")
# The norm of the gradients of leaves that the optimizer never moves.
FROZEN_NORM = "frozen_grad_norm"
PARAMETER_NORM = "parameter_norm"
# After these the state is not taken for a good one.
_SPIKES = Alert.LOSS_SPIKE | Alert.GRADIENT_SPIKE | Alert.UPDATE_SPIKE
# What to write for a model that was handed over with its functions.
_WHOLE_MODEL = (
    "params, static = eqx.partition(model, eqx.is_inexact_array), and in the loss "
    "model = eqx.combine(params, static)"
)


@dataclasses.dataclass(frozen=True)
class GuardedStep:
    """The fixed parts of a step, and the step itself; see `make_train_step`."""

    loss_fn: LossFn
    optimizer: optax.GradientTransformationExtraArgs
    guards: tuple[Guard, ...] | None
    window: int
    snapshot_every: int | None
    finite_check: FiniteCheck | None
    form: Form
    sample_updates: bool
    measure_parameters: bool = False
    trainable: Trainable = None
    axis_name: AxisName = None

    @functools.cached_property
    def core_shapes(self) -> judging.Core:
        """Shapes of the counters and guard states, to unpack them by."""
        return jax.eval_shape(lambda: judging.init_core(self.guards or ()))

    def core_of(self, state: TrainState) -> judging.Core:
        """Return the counters and guard states by name."""
        return unpack(state.core, self.core_shapes)

    def init(
        self, params: Params, batch: Batch, *, model_state: PyTree = None
    ) -> TrainState:
        """Return the state before the first step; see `TrainStep`."""
        check_params("make_train_step", params, _WHOLE_MODEL)
        check_trained("make_train_step", params)
        # Donation would delete arrays that the caller still holds.
        params = jax.tree.map(_copy, params)
        model_state = jax.tree.map(_copy, model_state)
        first = settled_state(self.optimizer, self.optimizer.init(params), params)
        opt_state = jax.tree.map(_copy, first)
        core = judging.init_core(self.guards or ())
        core = core._replace(damaged=jnp.full((), self._damaged(params), jnp.int32))
        aux = self._aux_shapes(params, batch, model_state, core)
        measured = self.sample_updates and not movement.is_spread(params)
        measured &= self.axis_name is None
        moves = self._trained(params, opt_state)
        ours = jax.eval_shape(lambda: self._own_metrics(params, params, moves))
        aux = _beside(aux, ours)
        sampled = movement.empty_sample()
        if measured:
            sampled = movement.sample(params, opt_state)
        snapshot = None
        if self.snapshot_every is not None:
            kept = jax.tree.map(_copy, (params, opt_state, model_state))
            snapshot = Snapshot(*kept)
        telemetry = init_telemetry(
            self.window, params, aux, self.guards or (), self._inner_counts(opt_state)
        )
        state = TrainState(
            params, opt_state, model_state, pack(core), telemetry, sampled, snapshot
        )
        return _on_the_mesh_of(params, state)

    def _damaged(self, params: Params) -> int:
        """Return the first leaf that is not finite, and say so: it may be meant."""
        leaf = first_damaged(params)
        if leaf >= 0:
            _LOGGER.warning(
                "make_train_step: the parameters given to init are not finite: %s. If "
                "that is not meant, restore a sound checkpoint: steps will be refused.",
                layout_of(params).leaves[leaf],
            )
        return leaf

    def _aux_shapes(self, params, batch, model_state, core) -> dict[str, Any]:
        key = jax.eval_shape(lambda: jax.random.key(0))
        given = (params, batch, key, model_state, core.step)
        _, aux = shapes_inside(self.axis_name, self._loss, *given)
        if (model_state is not None) != ("model_state" in aux):
            raise ValueError(
                "make_train_step: a stateful loss takes model_state= in init and "
                "returns it as aux['model_state']; only one of the two was given."
            )
        return aux

    def _loss(self, params, batch, key, model_state, step) -> tuple[Scalar, Aux]:
        kwargs: dict[str, Any] = {}
        if model_state is not None:
            # A copy of the tree: some libraries change the containers in place.
            kwargs["model_state"] = jax.tree.map(lambda x: x, model_state)
        if getattr(self.loss_fn, "wants_step", False):
            kwargs["step"] = step
        return self.loss_fn(params, batch, key, **kwargs)

    def one(
        self, state: TrainState, batch: Batch, key: Array
    ) -> tuple[TrainState, Row]:
        """Take one step; see `TrainStep`."""
        core = self.core_of(state)
        key = jax.random.fold_in(key, core.step)
        unit = self._loss_scale(core)

        def scaled(params: Params) -> tuple[Scalar, tuple[Scalar, Aux]]:
            loss, aux = self._loss(params, batch, key, state.model_state, core.step)
            # In the dtype of the loss, where an overflow belongs to be seen.
            large = loss if unit is None else loss * unit.astype(loss.dtype)
            return large, (loss, aux)

        gradients, (loss, aux) = gradient_of(scaled, state.params)
        return self._apply(state, core, loss, aux, gradients, unit)

    def blame(
        self, state: TrainState, batch: Batch, key: Array, *, step: int | None = None
    ) -> dict[str, list[str]]:
        """Return which components have a bad gradient, and where; see `TrainStep`."""
        last = jnp.maximum(self.core_of(state).step - 1, 0)
        at = last if step is None else jnp.int32(step)
        key = jax.random.fold_in(key, at)

        def loss(params: Params) -> tuple[Scalar, Aux]:
            # The same noise for each component: that of the step.
            same = jax.random.clone(key)
            return self._loss(params, batch, same, state.model_state, at)

        return blamed_components(loss, state.params)

    def _loss_scale(self, core: judging.Core) -> Scalar | None:
        scales = [
            guard.loss_scale(state)
            for guard, state in zip(self.guards or (), core.guards, strict=True)
            if guard.loss_scale is not None
        ]
        return functools.reduce(jnp.multiply, scales) if scales else None

    def apply_gradients(
        self, state: TrainState, loss: Scalar, aux: Aux, gradients: PyTree
    ) -> tuple[TrainState, Row]:
        """Take the part of a step after the gradient; see `TrainStep`."""
        return self._apply(state, self.core_of(state), loss, aux, gradients, None)

    def _apply(
        self,
        state: TrainState,
        core: judging.Core,
        loss: Scalar,
        aux: Aux,
        gradients: PyTree,
        unit: Scalar | None,
    ) -> tuple[TrainState, Row]:
        applier = self._applier(state)
        moves = movement.movement(
            state.params,
            state.sample,
            state.opt_state,
            # Of an optimizer that is not known, see `core.headroom`.
            may_be_infinite=applier.finite_check == "outcome",
        )
        moved = (core.consecutive_refused == 0) & (core.applied > 0)
        moved &= moves.sample.shape[0] > 0
        core = core.with_movement(moves.norm, moves.ratio, moved)
        damaged = jnp.where(core.damaged >= 0, core.damaged, moves.damaged)
        core = core._replace(damaged=damaged)
        ours = self._own_metrics(state.params, gradients, applier.trained)
        metrics = _beside(metrics_of(aux), ours)
        new_model_state = aux.get("model_state")
        trial = Trial(
            gradients=gradients,
            loss=jnp.asarray(loss),
            components=components_of(aux),
            params=state.params,
            inner=state.opt_state,
            extra={"value": loss},
            model_state_finite=~becomes_nonfinite(state.model_state, new_model_state),
            metrics=metrics,
            unit=unit,
            # A bounded gradient keeps a sound state finite, and hides one that is not:
            # no parameter would ever move again.
            moments_finite=moves.moments_finite,
        )
        outcome = applier(trial, core)
        model_state = select(outcome.applied, new_model_state, state.model_state)
        after = state._replace(
            params=outcome.params,
            opt_state=outcome.inner,
            model_state=model_state,
            core=pack(outcome.core, by_place=self.form == "branch"),
            sample=moves.sample,
        )
        after = self._roll_back(after, outcome)
        after = self._reset_moments(after, outcome)
        telemetry, floats, ints = record(
            state.telemetry,
            outcome,
            self.guards or (),
            self._inner_counts(after.opt_state),
            by_place=self.form == "branch",
        )
        return after._replace(telemetry=telemetry), Row(floats, ints)

    def _own_metrics(
        self, params: Params, gradients: PyTree, moves: tuple[bool, ...] | None
    ) -> dict[str, Scalar]:
        """Return what is measured beside the gradient that counts."""
        found = {}
        if frozen := only_frozen(gradients, moves):
            found[FROZEN_NORM] = jnp.sqrt(jnp.sum(sums_of_squares(frozen)))
        if self.measure_parameters:
            sums = sums_of_squares(params)
            sums = over_shards(sums, jax.tree.leaves(params), self.axis_name)
            found[PARAMETER_NORM] = jnp.sqrt(jnp.sum(sums))
        return found

    def _applier(self, state: TrainState) -> Applier:
        check = self.finite_check
        if check is None:
            known = holds_squares(state.opt_state)
            safe = known and survives_probe(self.optimizer, state.params)
            check = "headroom" if safe else "outcome"
        # `init` leaves the sample empty where it finds parameters sharded.
        spread = state.sample.shape[0] == 0
        return Applier(
            optimizer=self.optimizer,
            guards=self.guards,
            form=self.form,
            finite_check=check,
            spread=spread,
            trained=self._trained(state.params, state.opt_state),
            axis_name=self.axis_name,
        )

    def _trained(self, params: Params, opt_state: PyTree) -> tuple[bool, ...]:
        """Return for each leaf whether the optimizer may move it."""
        extra = {"value": jnp.float32(0)}
        return trained(self.optimizer, opt_state, params, params, self.trainable, extra)

    def _inner_counts(self, opt_state: PyTree) -> dict[str, Array]:
        """Return the skip counters of `optax.apply_if_finite`, if it is inside."""
        found = optax.tree.get_all_with_path(opt_state, "total_notfinite")
        return {"optimizer/total_notfinite": found[0][1]} if found else {}

    def _roll_back(self, state: TrainState, outcome: Outcome) -> TrainState:
        """Return to the snapshot where the verdict says so, or renew it."""
        if self.snapshot_every is None or state.snapshot is None:
            return state
        now = Snapshot(state.params, state.opt_state, state.model_state)
        calm = (outcome.decision.alerts & jnp.int32(_SPIKES.value)) == 0
        due = outcome.core.applied % self.snapshot_every == 0
        renew = outcome.applied & calm & due
        kept = self._choose(renew, now, state.snapshot)
        back = self._choose(outcome.decision.roll_back, state.snapshot, now)
        return state._replace(
            params=back.params,
            opt_state=back.opt_state,
            model_state=back.model_state,
            snapshot=kept,
        )

    def _reset_moments(self, state: TrainState, outcome: Outcome) -> TrainState:
        """Start the inner optimizer anew where the verdict says so."""
        if not any(guard.resets_moments for guard in self.guards or ()):
            return state
        # After everything else, and not in the loop of the branch form: XLA on CPU
        # would then keep both states.
        fresh = fresh_state(self.optimizer, state.params, state.opt_state)
        reset = outcome.decision.reset_moments
        return state._replace(opt_state=self._choose(reset, fresh, state.opt_state))

    def _choose(self, condition: Array, new: PyTree, old: PyTree) -> PyTree:
        if self.form == "select":
            return select(condition, new, old)
        return jax.lax.cond(condition, lambda n, _: n, lambda _, o: o, new, old)


def _beside(aux: Aux, ours: dict[str, Any]) -> dict[str, Any]:
    """Return both; a metric of the loss that has one of our names is ``aux/<name>``."""
    named = {f"aux/{name}" if name in ours else name: aux[name] for name in aux}
    return {**named, **ours}


def _on_the_mesh_of(params: Params, state: TrainState) -> TrainState:
    # A step returns everything on the mesh of the parameters. A counter that starts
    # on one device would cost a second compilation.
    leaves = jax.tree.leaves(params)
    if any(isinstance(leaf, Tracer) for leaf in leaves):
        return state  # traced, nothing lies anywhere yet
    placed = [getattr(leaf, "sharding", None) for leaf in leaves]
    meshes = [s.mesh for s in placed if isinstance(s, NamedSharding)]
    if not meshes:
        return state
    everywhere = NamedSharding(meshes[0], PartitionSpec())

    def place(leaf: Array) -> Array:
        alone = len(leaf.sharding.device_set) < everywhere.num_devices
        return jax.device_put(leaf, everywhere) if alone else leaf

    return jax.tree.map(place, state)


def _copy(leaf: Any, dtype: Any = None) -> Array:
    """Return a strongly typed copy in a buffer of its own."""
    array = jnp.asarray(leaf)
    return jnp.array(array, dtype=dtype or array.dtype, copy=True)
