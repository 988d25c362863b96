"""A loss, an optimizer and guards become one jitted, donated train step."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from stabjax.core import judge as judging
from stabjax.core import movement
from stabjax.core.apply import (
    Applier,
    FiniteCheck,
    Form,
    Outcome,
    Trial,
    becomes_nonfinite,
    select,
)
from stabjax.core.headroom import holds_squares
from stabjax.core.measure import components_of
from stabjax.core.packing import Packed, pack, unpack
from stabjax.health.ring import Telemetry, init_telemetry, record
from stabjax.types import Alert, Aux, Batch, Guard, LossFn, Params, Scalar

_SPIKES = Alert.LOSS_SPIKE | Alert.GRADIENT_SPIKE | Alert.UPDATE_SPIKE


class TrainingHalted(RuntimeError):
    """Training was halted by a guard; the parameters are the last accepted ones.

    Attributes:
        step: The attempted step that halted, from 0.
        component: First non-finite loss component of that step, or None.
        leaf: First parameter with a non-finite gradient in that step, or None.
        alerts: Bits of `stabjax.types.Alert` of that step.
    """

    def __init__(
        self, step: int, component: str | None, leaf: str | None, alerts: int
    ) -> None:
        self.step, self.component = step, component
        self.leaf, self.alerts = leaf, alerts
        names = [a.name.lower() for a in Alert if a & alerts and a.name]
        where = f"component {component or 'none'}, first bad leaf {leaf or 'none'}"
        super().__init__(
            f"training halted at step {step}: {', '.join(names)} ({where})."
        )


class Snapshot(NamedTuple):
    """What a rollback returns to.

    Attributes:
        params: Parameters.
        opt_state: State of the inner optimizer.
        model_state: Model state, or None.
    """

    params: Params
    opt_state: PyTree
    model_state: PyTree


class TrainState(NamedTuple):
    """Everything a train step carries. Every leaf is an array in its own buffer.

    Attributes:
        params: Parameters.
        opt_state: State of the inner optimizer.
        model_state: State of the model that is not trained, or None.
        core: Counters and guard states, packed; see `TrainStep.guard_states`.
        telemetry: The last rows of telemetry.
        sample: Sample of the parameters one step ago, to measure the update norm.
        snapshot: The last good state, or None without snapshots.
    """

    params: Params
    opt_state: PyTree
    model_state: PyTree
    core: Packed
    telemetry: Telemetry
    sample: Float[Array, " sample"]
    snapshot: Snapshot | None


class Row(NamedTuple):
    """One row of telemetry, or, from `many_steps`, one per step.

    Attributes:
        floats: The columns of ``schema.floats``.
        ints: The columns of ``schema.ints``.
    """

    floats: Float[Array, "*steps floats"]
    ints: Int[Array, "*steps ints"]


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A guarded training step, as functions; made by `make_train_step`.

    Attributes:
        init: ``(params, batch, *, model_state=None) -> TrainState``. The batch is
            an example, of which only shapes count. Copies what it is given.
        step: ``(state, batch, key) -> (state, Row)``; jitted, ``state`` is donated.
            Pass the same key each time: the step folds its own counter in.
        many_steps: ``(state, batches, key) -> (state, Row)``; the same over the
            leading axis of ``batches``, in one program.
        apply_gradients: ``(state, loss, aux, gradients) -> (state, Row)``; the part
            of a step after the gradient, not jitted, for loops of one's own.
        guard_states: ``state -> Core``; counters and guard states by name.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState, Batch, Array], tuple[TrainState, Row]]
    many_steps: Callable[[TrainState, Batch, Array], tuple[TrainState, Row]]
    apply_gradients: Callable[..., tuple[TrainState, Row]]
    guard_states: Callable[[TrainState], judging.Core]

    def schema(self, state: TrainState):
        """Return the names of the telemetry columns; touches no device."""
        return state.telemetry.schema


def make_train_step(
    loss_fn: LossFn,
    optimizer: optax.GradientTransformation,
    *,
    guards: Sequence[Guard] | None = (),
    window: int = 50,
    snapshot_every: int | None = None,
    finite_check: FiniteCheck | None = None,
    form: Form | None = None,
    sample_updates: bool = True,
) -> TrainStep:
    """Make a train step that applies a step only if every guard accepts it.

    The gradient is read once to measure it, all guards judge the same scalars, and
    the optimizer runs once. A refused step changes nothing but the counters.

    Args:
        loss_fn: The loss, see `stabjax.types.LossFn`.
        optimizer: Any optax optimizer, without clipping of its own; it is given
            ``value=loss`` if it takes extra arguments.
        guards: Guards in any order. Empty: only what is finite is applied. None:
            an unguarded step, with the same telemetry.
        window: Rows of the telemetry ring [steps], >= 1.
        snapshot_every: Keep a copy of the state every so many applied steps, for
            guards that roll back; costs one copy of parameters and optimizer
            state. None: no copy.
        finite_check: ``"outcome"`` reads new parameters and optimizer state once
            more before they replace the old; ``"headroom"`` bounds the gradient
            instead, so that the known optax optimizers stay finite, at no cost.
            None: ``"headroom"`` for those, ``"outcome"`` for all others.
        form: ``"branch"`` or ``"select"``; None: the right one for the default
            backend (branch on CPU).
        sample_updates: Measure the update norm, see `stabjax.core.movement`.
            Switched off by itself where parameters are sharded.

    Returns:
        The functions of the step.

    Raises:
        ValueError: If an argument is out of range, or a guard rolls back and there
            are no snapshots.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from stabjax.guards import clip_by_global_norm
        >>> def loss_fn(params, batch, key):
        ...     return jnp.mean((params["w"] * batch - 1.0) ** 2), {}
        >>> train = make_train_step(
        ...     loss_fn, optax.sgd(0.1), guards=[clip_by_global_norm(max_norm=1.0)])
        >>> batch = jnp.ones((4,))
        >>> state = train.init({"w": jnp.zeros(())}, batch)
        >>> state, row = train.step(state, batch, jax.random.key(0))
        >>> print(round(float(state.params["w"]), 3))
        0.1
    """
    _check_options(guards, window, snapshot_every, finite_check, form)
    step = _Step(
        loss_fn=loss_fn,
        optimizer=optax.with_extra_args_support(optimizer),
        guards=None if guards is None else tuple(guards),
        window=window,
        snapshot_every=snapshot_every,
        finite_check=finite_check,
        form=form or ("branch" if jax.default_backend() == "cpu" else "select"),
        sample_updates=sample_updates,
    )

    def many(state: TrainState, batches: Batch, key: Array):
        return jax.lax.scan(lambda s, b: step.one(s, b, key), state, batches)

    return TrainStep(
        init=step.init,
        step=jax.jit(step.one, donate_argnums=0),
        many_steps=jax.jit(many, donate_argnums=0),
        apply_gradients=step.apply_gradients,
        guard_states=step.core_of,
    )


def _check_options(guards, window, snapshot_every, finite_check, form) -> None:
    name = "make_train_step"
    for label, value in (("window", window), ("snapshot_every", snapshot_every)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name}: {label} must be >= 1, got {value!r}.")
    if finite_check not in (None, "outcome", "headroom"):
        raise ValueError(
            f"{name}: finite_check must be 'outcome', 'headroom' or None, "
            f"got {finite_check!r}."
        )
    if form not in (None, "branch", "select"):
        raise ValueError(
            f"{name}: form must be 'branch', 'select' or None, got {form!r}."
        )
    for guard in guards or ():
        if not isinstance(guard, Guard):
            raise ValueError(f"{name}: guards must be Guard objects, got {guard!r}.")
        if guard.rolls_back and snapshot_every is None:
            raise ValueError(
                f"{name}: snapshot_every must be >= 1, because the guard "
                f"{guard.name} rolls back, got None."
            )


@dataclasses.dataclass(frozen=True)
class _Step:
    """The fixed parts of a step, and the step itself."""

    loss_fn: LossFn
    optimizer: optax.GradientTransformationExtraArgs
    guards: tuple[Guard, ...] | None
    window: int
    snapshot_every: int | None
    finite_check: FiniteCheck | None
    form: Form
    sample_updates: bool

    @functools.cached_property
    def core_shapes(self) -> judging.Core:
        return jax.eval_shape(lambda: judging.init_core(self.guards or ()))

    def core_of(self, state: TrainState) -> judging.Core:
        return unpack(state.core, self.core_shapes)

    def init(
        self, params: Params, batch: Batch, *, model_state: PyTree = None
    ) -> TrainState:
        # Donation would delete arrays that the caller still holds.
        params = jax.tree.map(_copy, params)
        model_state = jax.tree.map(_copy, model_state)
        opt_state = jax.tree.map(_copy, self.optimizer.init(params))
        core = judging.init_core(self.guards or ())
        aux = self._aux_shapes(params, batch, model_state, core)
        measured = self.sample_updates and not movement.is_spread(params)
        sampled = movement.sample(params) if measured else movement.empty_sample()
        snapshot = None
        if self.snapshot_every is not None:
            kept = jax.tree.map(_copy, (params, opt_state, model_state))
            snapshot = Snapshot(*kept)
        telemetry = init_telemetry(
            self.window, params, aux, self.guards or (), self._inner_counts(opt_state)
        )
        return TrainState(
            params, opt_state, model_state, pack(core), telemetry, sampled, snapshot
        )

    def _aux_shapes(self, params, batch, model_state, core) -> dict[str, Any]:
        key = jax.eval_shape(lambda: jax.random.key(0))
        loss, aux = jax.eval_shape(
            self._loss, params, batch, key, model_state, core.step
        )
        if loss.shape != ():
            raise ValueError(
                f"make_train_step: the loss must be a scalar, got shape {loss.shape}."
            )
        for name, value in aux.items():
            if name != "model_state" and getattr(value, "shape", None) != ():
                raise ValueError(
                    f"make_train_step: aux[{name!r}] must be a scalar, got {value}."
                )
        if (model_state is not None) != ("model_state" in aux):
            raise ValueError(
                "make_train_step: a stateful loss takes model_state= in init and "
                "returns it as aux['model_state']; only one of the two was given."
            )
        return aux

    def _loss(self, params, batch, key, model_state, step) -> tuple[Scalar, Aux]:
        kwargs: dict[str, Any] = {}
        if model_state is not None:
            kwargs["model_state"] = model_state
        if getattr(self.loss_fn, "wants_step", False):
            kwargs["step"] = step
        return self.loss_fn(params, batch, key, **kwargs)

    def one(
        self, state: TrainState, batch: Batch, key: Array
    ) -> tuple[TrainState, Row]:
        core = self.core_of(state)
        key = jax.random.fold_in(key, core.step)
        differentiate = jax.value_and_grad(self._loss, has_aux=True)
        (loss, aux), gradients = differentiate(
            state.params, batch, key, state.model_state, core.step
        )
        return self.apply_gradients(state, loss, aux, gradients)

    def apply_gradients(
        self, state: TrainState, loss: Scalar, aux: Aux, gradients: PyTree
    ) -> tuple[TrainState, Row]:
        core = self.core_of(state)
        sampled, update_norm, ratio = movement.movement(state.params, state.sample)
        # After a refusal nothing has moved, and the last real update still stands.
        moved = (core.consecutive_refused == 0) & (core.applied > 0)
        core = core._replace(
            update_norm=jnp.where(moved, update_norm, core.update_norm),
            update_ratio=jnp.where(moved, ratio, core.update_ratio),
        )
        new_model_state = aux.get("model_state")
        trial = Trial(
            gradients=gradients,
            loss=jnp.asarray(loss, jnp.float32),
            components=components_of(aux),
            params=state.params,
            inner=state.opt_state,
            extra={"value": loss},
            model_state_finite=~becomes_nonfinite(state.model_state, new_model_state),
        )
        outcome = self._applier(state)(trial, core)
        model_state = select(outcome.applied, new_model_state, state.model_state)
        after = state._replace(
            params=outcome.params,
            opt_state=outcome.inner,
            model_state=model_state,
            core=pack(outcome.core),
            sample=sampled,
        )
        after = self._roll_back(after, outcome)
        telemetry, floats, ints = record(
            state.telemetry,
            outcome,
            self.guards or (),
            aux,
            self._inner_counts(after.opt_state),
        )
        return after._replace(telemetry=telemetry), Row(floats, ints)

    def _applier(self, state: TrainState) -> Applier:
        safe = holds_squares(state.opt_state)
        check = self.finite_check or ("headroom" if safe else "outcome")
        # `init` leaves the sample empty where it finds parameters sharded.
        spread = state.sample.shape[0] == 0
        return Applier(self.optimizer, self.guards, self.form, check, spread)

    def _inner_counts(self, opt_state: PyTree) -> dict[str, Array]:
        """Return the skip counters of `optax.apply_if_finite`, if it is inside."""
        found = optax.tree.get_all_with_path(opt_state, "total_notfinite")
        return {"optimizer/total_notfinite": found[0][1]} if found else {}

    def _roll_back(self, state: TrainState, outcome: Outcome) -> TrainState:
        """Return to the snapshot where the verdict says so, or renew it."""
        if self.snapshot_every is None:
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

    def _choose(self, condition: Array, new: PyTree, old: PyTree) -> PyTree:
        if self.form == "select":
            return select(condition, new, old)
        return jax.lax.cond(condition, lambda n, _: n, lambda _, o: o, new, old)


def _copy(leaf: Any) -> Array:
    """Return a strongly typed copy in a buffer of its own."""
    array = jnp.asarray(leaf)
    return jnp.array(array, dtype=array.dtype, copy=True)
