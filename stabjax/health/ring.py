"""A ring of telemetry rows on the device, one row per attempted step."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.core.apply import Outcome
from stabjax.core.elementwise import unit_of
from stabjax.core.layout import layout_of
from stabjax.core.packing import joined
from stabjax.health.schema import FLOATS, INTS, TelemetrySchema
from stabjax.types import Aux, GroupScale, Guard, Params

# The column of each guard in which it rings.
ALERTS = "alerts"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Telemetry:
    """The last rows; the row of step ``s`` is ``s % window``.

    Attributes:
        floats: Float columns, float32 ``[window, floats]``.
        ints: Int columns, int32 ``[window, ints]``; ``step`` is -1 in a row never
            written.
        schema: Static names of the columns.
    """

    # Not annotated as arrays: JAX rebuilds trees with placeholders in them.
    floats: Any
    ints: Any
    schema: TelemetrySchema = dataclasses.field(metadata={"static": True})


def init_telemetry(
    window: int,
    params: Params,
    aux: Aux,
    guards: Sequence[Guard],
    counts: dict[str, Any],
) -> Telemetry:
    """Return an empty ring.

    A metric of the loss is a column of its own name. One whose name is that of another
    column, such as ``loss``, ``step`` or ``skip_spikes/streak/loss``, is the column
    ``aux/<name>``, in the schema and so in the rows.

    Args:
        window: Rows of the ring [steps], >= 1.
        params: Parameters, whose leaves are named.
        aux: What the loss returns beside its value, or its shapes.
        guards: The guards, whose scalar states become columns.
        counts: Further integer columns.

    Returns:
        The ring with its schema.
    """
    states = jax.eval_shape(lambda: tuple(guard.init() for guard in guards))
    named = list(_guard_columns(guards, states))
    real = [name for name, _, leaf in named if _is_float(leaf)]
    whole = [name for name, _, leaf in named if not _is_float(leaf)]
    components = sorted(_components(aux))
    subjects = tuple(
        (f"{prefix}/{ALERTS}", guard.subject)
        for prefix, guard in zip(_prefixes(guards), guards, strict=True)
    )
    whole += [ring for ring, _ in subjects]
    ours = {*FLOATS, *INTS, *components, *real, *whole, *counts}
    schema = TelemetrySchema(
        floats=(*FLOATS, *components, *_columns_of(_metrics(aux), ours), *real),
        ints=(*INTS, *whole, *sorted(counts)),
        leaves=layout_of(params).leaves,
        components=tuple(components),
        subjects=subjects,
    )
    return Telemetry(
        floats=jnp.zeros((window, len(schema.floats)), jnp.float32),
        ints=jnp.full((window, len(schema.ints)), -1, jnp.int32),
        schema=schema,
    )


def record(
    telemetry: Telemetry,
    outcome: Outcome,
    guards: Sequence[Guard],
    counts: dict[str, Array],
    *,
    by_place: bool = False,
) -> tuple[Telemetry, Float[Array, " floats"], Int[Array, " ints"]]:
    """Write the row of one step into the ring.

    Args:
        telemetry: The ring.
        outcome: What became of the step.
        guards: The guards, in the order of ``outcome.core.guards``.
        counts: Further integer columns.
        by_place: See `stabjax.core.packing.joined`.

    Returns:
        The ring, and the row by itself.
    """
    real, whole = _columns(outcome, guards, counts)
    floats = joined(real, jnp.float32, len(real), by_place=by_place)
    ints = joined(whole, jnp.int32, len(whole), by_place=by_place)
    place = outcome.stats.step % telemetry.floats.shape[0]
    return (
        Telemetry(
            floats=_write(telemetry.floats, floats, place),
            ints=_write(telemetry.ints, ints, place),
            schema=telemetry.schema,
        ),
        floats,
        ints,
    )


def _write(ring: Array, row: Array, place: Array) -> Array:
    return jax.lax.dynamic_update_slice_in_dim(ring, row[None], place, axis=0)


def _columns(outcome, guards, counts) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return the columns in the order that `init_telemetry` names them."""
    stats, decision, core = outcome.stats, outcome.decision, outcome.core
    scale = decision.gradient_scale
    smallest = scale.smallest() if isinstance(scale, GroupScale) else scale
    common = (
        stats.loss,
        stats.grad_norm,
        stats.update_norm,
        stats.update_ratio,
        smallest / unit_of(scale, stats.norm_unit),
        decision.update_scale,
    )
    whole = (
        stats.step,
        outcome.applied,
        core.applied,
        core.refused,
        core.consecutive_refused,
        decision.alerts,
        stats.first_bad_leaf,
        stats.first_bad_component,
        stats.nonfinite_elements,
        core.halted,
        core.rollbacks,
        stats.update_measured,
    )
    metrics = [stats.metrics[name] for name in sorted(stats.metrics)]
    components = [stats.components[name] for name in sorted(stats.components)]
    columns = list(_guard_columns(guards, core.guards))
    real = [_entry(leaf, at) for _, at, leaf in columns if _is_float(leaf)]
    flags = [_entry(leaf, at) for _, at, leaf in columns if not _is_float(leaf)]
    further = [counts[name] for name in sorted(counts)]
    whole = (*whole, *flags, *outcome.rings, *further)
    return (*common, *components, *metrics, *real), whole


def _guard_columns(
    guards: Sequence[Guard], states: Sequence[Any]
) -> Iterator[tuple[str, int | None, Any]]:
    """Yield (column, entry of a vector or None, leaf) for each guard state."""
    for guard, prefix, state in zip(guards, _prefixes(guards), states, strict=True):
        for field, leaf in zip(state._fields, state, strict=True):
            if leaf.ndim == 0:
                yield f"{prefix}/{field}", None, leaf
            elif leaf.ndim == 1 and leaf.shape[0] == len(guard.labels):
                for at, label in enumerate(guard.labels):
                    yield f"{prefix}/{field}/{label}", at, leaf


def _prefixes(guards: Sequence[Guard]) -> list[str]:
    """Return the name of each guard in the columns; a second one has a number."""
    seen: dict[str, int] = {}
    found = []
    for guard in guards:
        seen[guard.name] = number = seen.get(guard.name, 0) + 1
        found.append(guard.name if number == 1 else f"{guard.name}#{number}")
    return found


def _entry(leaf: Array, at: int | None) -> Array:
    return leaf if at is None else leaf[at]


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.floating)


def _components(aux: Aux) -> list[str]:
    return [name for name in aux if name.startswith(("raw/", "weighted/"))]


def _columns_of(metrics: list[str], ours: set[str]) -> list[str]:
    """Return the column of each metric, in their order; none is one of ours."""
    taken = ours | set(metrics)

    def free(name: str) -> str:
        return name if name not in taken else free(f"aux/{name}")

    return [free(f"aux/{name}") if name in ours else name for name in metrics]


def _metrics(aux: Aux) -> list[str]:
    components = _components(aux)
    return sorted(n for n in aux if n != "model_state" and n not in components)
