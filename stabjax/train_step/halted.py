"""The errors with which the host ends a run: halted by a guard, or damaged."""

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from stabjax.core import judge as judging
from stabjax.core.layout import layout_of
from stabjax.health.alerts import names_of
from stabjax.health.schema import TelemetrySchema, decode
from stabjax.train_step.audit import describe
from stabjax.train_step.state import TrainState


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
        where = f"component {component or 'none'}, first bad leaf {leaf or 'none'}"
        super().__init__(
            f"training halted at step {step}: {', '.join(names_of(alerts))} ({where})."
        )


class StateDamaged(TrainingHalted):
    """The state holds elements that were finite once; it was damaged from outside.

    Attributes:
        damage: Path of each damaged leaf to the number of elements.
    """

    def __init__(self, step: int, damage: dict[str, int]) -> None:
        super().__init__(step, None, max(damage, key=damage.__getitem__), 0)
        self.damage = damage
        self.args = (f"state damaged at step {step}: not finite: {describe(damage)}.",)


def raise_if_halted(state: Any, params: PyTree | None = None) -> None:
    """Raise `TrainingHalted` if a guard has halted the training of this state.

    A halted step applies nothing any more, and cannot raise by itself: call this in a
    loop of your own, as often as a wait for the device is cheap. It reads one flag;
    more only if that is set.

    Args:
        state: From a train step, or the state of a guarded optimizer, or what holds
            one: an optax chain, flax's ``TrainState``, an ``nnx.Optimizer``.
        params: The parameters, to name the leaf where the state of an optimizer has
            its number only.

    Raises:
        TrainingHalted: If it has.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> from stabjax import guard, guards
        >>> optimizer = guard(optax.sgd(0.1), guards.skip_nonfinite(max_consecutive=1))
        >>> params = {"w": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> raise_if_halted(state)
        >>> _, state = optimizer.update({"w": jnp.full(2, jnp.nan)}, state, params)
        >>> raise_if_halted(state, params)
        Traceback (most recent call last):
        ...
        stabjax.train_step.halted.TrainingHalted: training halted at step 0: \
nonfinite_gradient, halt (component none, first bad leaf w).
    """
    if isinstance(state, TrainState):
        _raise_of_step(state)
    for guarded in guarded_states(state):
        if np.any(np.asarray(guarded.core.halted)):
            _raise_of_optimizer(guarded, params)


def guarded_states(state: Any) -> list[Any]:
    """Return the states of guarded optimizers in whatever holds them."""

    def is_guarded(node: Any) -> bool:
        return isinstance(getattr(node, "core", None), judging.Core)

    inside = getattr(state, "opt_state", state)
    found = jax.tree.leaves(inside, is_leaf=is_guarded)
    return [node for node in found if is_guarded(node)]


def _raise_of_step(state: TrainState) -> None:
    # Packed in this order, see `core.packing`: all fields before it are integers.
    halted = state.core.ints[..., judging.Core._fields.index("halted")]
    if not np.any(np.asarray(halted)):
        return
    schema = state.telemetry.schema
    floats, ints = (np.asarray(x) for x in jax.tree.leaves(state.telemetry))
    rows = decode(schema, _rows(floats), _rows(ints))
    raise halted_at(schema, rows)


def halted_at(
    schema: TelemetrySchema, rows: Iterable[dict[str, Any]]
) -> TrainingHalted:
    """Return the error for the first halted row, with what the rows before it blame.

    Args:
        schema: Names of the columns.
        rows: Decoded rows in the order of steps; the first that is halted counts, or
            else the last.
    """
    rows = list(rows)
    halted = [place for place, row in enumerate(rows) if row["halted"]]
    at = halted[0] if halted else len(rows) - 1
    first, component, leaf = rows[at], None, None
    for row in reversed(rows[: at + 1]):
        # The step that halts may have been sound itself: its streak was not.
        if row["accepted"] or component or leaf:
            break
        component, leaf = schema.component(row), schema.leaf(row)
    return TrainingHalted(first["step"], component, leaf, first["alerts"])


def _rows(ring: np.ndarray) -> np.ndarray:
    # The members of an ensemble, one after the other.
    return ring.reshape(-1, ring.shape[-1])


def _raise_of_optimizer(guarded: Any, params: PyTree | None) -> None:
    def first(field: str, default: int) -> int:
        value = getattr(guarded, field, default)
        return int(np.asarray(value).reshape(-1)[0])

    index = first("first_bad_leaf", -1)
    if index < 0:
        leaf = None
    elif params is None:
        leaf = f"number {index}"
    else:
        leaf = layout_of(params).leaves[index]
    step = first("refused_step", -1)
    raise TrainingHalted(step, None, leaf, first("alerts", 0))
