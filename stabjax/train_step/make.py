"""Build the functions of a guarded train step from loss, optimizer and guards."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import jax
import optax
from jaxtyping import Array

from stabjax.core import judge as judging
from stabjax.core.across import AxisName
from stabjax.core.apply import FiniteCheck, Form
from stabjax.core.frozen import Trainable
from stabjax.core.given import check_optimizer
from stabjax.core.loss_form import uniform
from stabjax.core.loss_result import loss_and_aux
from stabjax.guards.given import Guards, flattened
from stabjax.health.schema import TelemetrySchema
from stabjax.train_step import host_snapshot
from stabjax.train_step.audit import audit
from stabjax.train_step.integer_leaves import around_integers, filled
from stabjax.train_step.state import Row, Snapshot, TrainState
from stabjax.train_step.step import GuardedStep
from stabjax.train_step.traces import Traces
from stabjax.types import Batch, Guard, Loss

_NAME = "make_train_step"
SnapshotMemory = Literal["device", "pinned_host"]


@dataclasses.dataclass(frozen=True)
class TrainStep:
    """A guarded training step, as functions; made by `make_train_step`.

    Attributes:
        init: ``(params, batch, *, model_state=None) -> TrainState``. The batch is
            an example, of which only shapes count. Copies what it is given. Leaves
            of ``params`` that are integers or booleans stay as they are.
        step: ``(state, batch, key) -> (state, Row)``; jitted, ``state`` is donated.
            Pass the same key each time: the step folds its own counter in. A batch
            of another shape or dtype compiles it anew, which the logger ``stabjax``
            tells once as a warning that names the leaf.
        many_steps: ``(state, batches, key) -> (state, Row)``; the same over the
            leading axis of ``batches``, in one program.
        apply_gradients: ``(state, loss, aux, gradients) -> (state, Row)``; the part
            of a step after the gradient, not jitted, for loops of one's own. Integer
            leaves need no gradient: None, or the float0 of ``allow_int=True``.
        guard_states: ``state -> Core``; counters and guard states by name.
        blame: ``(state, batch, key, *, step=None) -> {component: [leaf, ...]}``; the
            components of the loss whose gradient is not finite although the value may
            be. For a refused step, whose state is the one before it: pass its batch and
            the key of the loop; ``step`` if it was not the last.
        audit: ``state -> {leaf: elements not finite}``; see `train_step.audit`.
        keep: ``state -> Snapshot`` in pinned host memory; see `host_snapshot`.
        restore: ``(state, snapshot) -> state``; the way back.
    """

    init: Callable[..., TrainState]
    step: Callable[[TrainState, Batch, Array], tuple[TrainState, Row]]
    many_steps: Callable[[TrainState, Batch, Array], tuple[TrainState, Row]]
    apply_gradients: Callable[..., tuple[TrainState, Row]]
    guard_states: Callable[[TrainState], judging.Core]
    blame: Callable[..., dict[str, list[str]]]
    audit: Callable[[TrainState], dict[str, int]] = audit
    keep: Callable[[TrainState], Snapshot] = host_snapshot.keep
    restore: Callable[[TrainState, Snapshot], TrainState] = host_snapshot.restore

    def schema(self, state: TrainState) -> TelemetrySchema:
        """Return the names of the telemetry columns; touches no device."""
        return state.telemetry.schema


def make_train_step(
    loss_fn: Loss,
    optimizer: optax.GradientTransformation,
    *,
    guards: Guards | None = (),
    window: int = 50,
    snapshot_every: int | None = None,
    snapshot_memory: SnapshotMemory = "device",
    finite_check: FiniteCheck | None = None,
    form: Form | None = None,
    sample_updates: bool = True,
    measure_parameters: bool = False,
    trainable: Trainable = None,
    axis_name: AxisName = None,
) -> TrainStep:
    """Make a train step that applies a step only if every guard accepts it.

    The gradient is read once to measure it, all guards judge the same scalars, and
    the optimizer runs once. A refused step changes nothing but the counters.

    Args:
        loss_fn: The loss, ``(params, batch, key) -> (loss, aux)`` or another form that
            `stabjax.types.LossFn` lists, such as ``(params, batch) -> loss``.
        optimizer: Any optax optimizer, without clipping of its own; it is given
            ``value=loss`` if it takes extra arguments.
        guards: Guards in any order, one or several; a sequence of them may stand for
            one. Empty: only what is finite is applied. None: an unguarded step, with
            the same telemetry.
        window: Rows of the telemetry ring [steps], >= 1.
        snapshot_every: Keep a copy of the state every so many applied steps, for
            guards that roll back; costs one copy of parameters and optimizer
            state. None: no copy.
        snapshot_memory: ``"device"`` keeps that copy in the state and rolls back in
            the step itself. ``"pinned_host"`` leaves both to the loop, with
            `TrainStep.keep` and `TrainStep.restore`: a guard that rolls back then
            refuses the step and raises the count of rollbacks.
        finite_check: ``"outcome"`` reads new parameters and optimizer state once
            more before they replace the old; ``"headroom"`` bounds the gradient
            instead, so that the known optax optimizers stay finite, at no cost.
            None: ``"headroom"`` for those, ``"outcome"`` for all others.
        form: ``"branch"`` or ``"select"``; None: the right one for the default
            backend (branch on CPU, for any number of leaves: compiling the select
            form there took 36 CPU seconds for 200 tiny leaves, this 12).
        sample_updates: Measure the update norm, see `stabjax.core.movement`.
            Switched off by itself where parameters are sharded.
        measure_parameters: Also measure the norm of all parameters before the step, as
            the metric ``parameter_norm``; reads them once more.
        trainable: Which leaves the optimizer moves: a tree of booleans, or a function
            of a leaf's path. The gradients of the others count in nothing, and their
            norm is the metric ``frozen_grad_norm``. None: those whose update the
            optimizer does not always set to zero.
        axis_name: The mapped axis or axes over which the gradients are sharded inside
            `jax.shard_map`; norms are then those of the whole leaves.

    Returns:
        The functions of the step.

    Raises:
        TypeError: If the loss is no function of parameters and batch, the optimizer no
            optax transformation, or one of the guards no guard; in `init`, if the loss
            returns something else than a loss and a mapping, or a leaf of ``params``
            is no array.
        ValueError: If an argument is out of range, or a guard rolls back and there
            are no snapshots; in `init`, if the loss or a metric is no scalar.

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
    _check_counts(window=window, snapshot_every=snapshot_every)
    _check_choice("snapshot_memory", snapshot_memory, ("device", "pinned_host"))
    _check_choice("finite_check", finite_check, ("outcome", "headroom", None))
    _check_choice("form", form, ("branch", "select", None))
    whole = uniform(_NAME, loss_fn)
    check_optimizer(
        _NAME, "optimizer", optimizer, "make_train_step(loss_fn, optax.adamw(1e-3))"
    )
    listed = None if guards is None else flattened(_NAME, guards)
    _check_snapshots(listed or (), snapshot_every, snapshot_memory)
    step = GuardedStep(
        loss_fn=whole,
        optimizer=around_integers(optimizer),
        guards=listed,
        window=window,
        snapshot_every=snapshot_every if snapshot_memory == "device" else None,
        finite_check=finite_check,
        form=form or ("branch" if jax.default_backend() == "cpu" else "select"),
        sample_updates=sample_updates,
        measure_parameters=measure_parameters,
        trainable=trainable,
        axis_name=axis_name,
    )

    once, together = Traces("step"), Traces("many_steps")

    def one(state: TrainState, batch: Batch, key: Array):
        once.note(state, batch)
        return step.one(state, batch, key)

    def many(state: TrainState, batches: Batch, key: Array):
        together.note(state, batches)
        return jax.lax.scan(lambda s, b: step.one(s, b, key), state, batches)

    def apply_gradients(state: TrainState, loss: Any, aux: Any, gradients: Any):
        loss, aux = loss_and_aux("apply_gradients", (loss, aux))
        return step.apply_gradients(state, loss, aux, filled(gradients, state.params))

    return TrainStep(
        init=step.init,
        step=jax.jit(one, donate_argnums=0),
        many_steps=jax.jit(many, donate_argnums=0),
        apply_gradients=apply_gradients,
        guard_states=step.core_of,
        blame=step.blame,
    )


def _check_counts(**given: Any) -> None:
    for label, value in given.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"make_train_step: {label} must be >= 1, got {value!r}.")


def _check_choice(label: str, value: str | None, allowed: tuple) -> None:
    if value not in allowed:
        *most, last = (repr(name) for name in allowed)
        names = f"{', '.join(most)} or {last}"
        raise ValueError(f"make_train_step: {label} must be {names}, got {value!r}.")


def _check_snapshots(
    guards: tuple[Guard, ...], snapshot_every: int | None, memory: str
) -> None:
    for guard in guards:
        in_step = memory == "device"
        if guard.rolls_back and snapshot_every is None and in_step:
            raise ValueError(
                f"{_NAME}: snapshot_every must be >= 1, because the guard "
                f"{guard.name} rolls back, got None."
            )
