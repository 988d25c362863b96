"""What a train step carries from one call to the next."""

from typing import NamedTuple

from jaxtyping import Array, Float, Int

from stabjax.core.packing import Packed
from stabjax.health.ring import Telemetry
from stabjax.types import Params, PyTree


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
