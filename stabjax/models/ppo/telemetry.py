"""One row of telemetry for all updates of an iteration."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from stabjax.health.ring import Telemetry
from stabjax.health.schema import FLOATS, INTS, TelemetrySchema
from stabjax.train_step import Row

__all__ = ["COUNTS", "iteration_number", "one_row", "ring_for", "write"]

# Whole numbers that only an iteration has.
COUNTS = ("updates", "updates_applied")
_SMALLEST = ("gradient_scale", "update_scale")
_LARGEST = ("grad_norm", "update_norm", "update_ratio")


def ring_for(telemetry: Telemetry, window: int) -> Telemetry:
    """Return an empty ring of iterations for the updates that another records."""
    schema = telemetry.schema
    schema = dataclasses.replace(schema, ints=(*schema.ints, *COUNTS))
    return Telemetry(
        floats=jnp.full((window, len(schema.floats)), jnp.nan, jnp.float32),
        ints=jnp.full((window, len(schema.ints)), -1, jnp.int32),
        schema=schema,
    )


def scratch_ring(telemetry: Telemetry) -> Telemetry:
    """Return a ring of one update, under the ring of iterations."""
    schema = telemetry.schema
    schema = dataclasses.replace(schema, ints=schema.ints[: -len(COUNTS)])
    return Telemetry(
        floats=jnp.full((1, len(schema.floats)), jnp.nan, jnp.float32),
        ints=jnp.full((1, len(schema.ints)), -1, jnp.int32),
        schema=schema,
    )


def iteration_number(telemetry: Telemetry) -> Int[Array, ""]:
    """Return how many iterations were recorded: no rollback takes one back."""
    return jnp.max(telemetry.ints[:, telemetry.schema.ints.index("step")]) + 1


def one_row(
    schema: TelemetrySchema,
    rows: Row,
    done: Bool[Array, " updates"],
    iteration: Int[Array, ""],
) -> Row:
    """Reduce the rows of the updates to one.

    Losses, components and metrics are means over the finite ones; norms the largest;
    scales the smallest; counters and the states of guards the last. ``step`` is the
    iteration, ``accepted`` whether anything was applied, alerts are joined, those of
    each guard too, and a bad leaf or component is the first there was.

    Args:
        schema: Columns of the ring of iterations.
        rows: One row per update.
        done: Which of them were made; the others were left out at the end.
        iteration: Number of the iteration, from 0.
    """
    last = jnp.sum(done, dtype=jnp.int32) - 1
    floats = _floats(schema, rows.floats, done, last)
    ints = _ints(schema, rows.ints, done, last, iteration)
    return Row(floats, ints)


def _floats(
    schema: TelemetrySchema,
    rows: Float[Array, "updates floats"],
    done: Bool[Array, " updates"],
    last: Int[Array, ""],
) -> Float[Array, " floats"]:
    good = done[:, None] & jnp.isfinite(rows)
    count = jnp.sum(good, axis=0)
    some = count > 0
    total = jnp.sum(jnp.where(good, rows, 0.0), axis=0)
    mean = jnp.where(some, total / jnp.maximum(count, 1), jnp.nan)
    largest = jnp.max(rows, axis=0, where=good, initial=-jnp.inf)
    smallest = jnp.min(rows, axis=0, where=good, initial=jnp.inf)
    names = schema.floats
    joined = jnp.where(_mask(names, _LARGEST), largest, mean)
    joined = jnp.where(_mask(names, _SMALLEST), smallest, joined)
    joined = jnp.where(some, joined, jnp.nan)
    held = np.array([_is_guard_state(name) for name in names])
    return jnp.where(held, rows[last], joined)


def _is_guard_state(name: str) -> bool:
    family = name.split("/")[0]
    return "/" in name and family not in _MEASURED


_MEASURED = ("raw", "weighted", "inactive", "clamp_hits", "gradient")


def _ints(
    schema: TelemetrySchema,
    rows: Int[Array, "updates recorded"],
    done: Bool[Array, " updates"],
    last: Int[Array, ""],
    iteration: Int[Array, ""],
) -> Int[Array, " ints"]:
    column = {name: rows[:, index] for index, name in enumerate(schema.ints[:-2])}
    applied = jnp.sum(jnp.where(done, column["accepted"], 0))
    special = {
        name: _joined(bits, done)
        for name, bits in column.items()
        if name.rpartition("/")[2] == "alerts"
    }
    special |= {
        "step": iteration,
        "accepted": (applied > 0).astype(jnp.int32),
        "first_bad_leaf": _first_bad(column["first_bad_leaf"], done),
        "first_bad_component": _first_bad(column["first_bad_component"], done),
        "updates": last + 1,
        "updates_applied": applied,
    }
    held = rows[last]
    return jnp.stack(
        [
            special[name].astype(jnp.int32) if name in special else held[index]
            for index, name in enumerate(schema.ints)
        ]
    )


def _joined(bits: Array, done: Array) -> Array:
    """Return what was set in any update that was made."""
    bits = jnp.where(done, bits, 0)
    return jax.lax.reduce(bits, np.int32(0), jax.lax.bitwise_or, (0,))


def _first_bad(column: Array, done: Array) -> Array:
    bad = done & (column >= 0)
    return jnp.where(jnp.any(bad), column[jnp.argmax(bad)], -1)


def _mask(names: Sequence[str], wanted: Sequence[str]) -> np.ndarray:
    return np.array([name in wanted for name in names])


def write(telemetry: Telemetry, row: Row, iteration: Int[Array, ""]) -> Telemetry:
    """Write a row into the ring."""
    place = iteration % telemetry.floats.shape[0]
    put = jax.lax.dynamic_update_slice_in_dim
    return dataclasses.replace(
        telemetry,
        floats=put(telemetry.floats, row.floats[None], place, axis=0),
        ints=put(telemetry.ints, row.ints[None], place, axis=0),
    )


assert {"accepted", "alerts", "step"} <= set(INTS)
assert {*_SMALLEST, *_LARGEST} <= set(FLOATS)
