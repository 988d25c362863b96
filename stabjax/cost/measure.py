"""Compile an optimizer bare, with optax's clip, and with guards, and compare."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from stabjax.core.layout import is_inexact
from stabjax.cost import hlo
from stabjax.cost.program import (
    Program,
    accessed,
    bytes_of,
    compile_for,
    guarded,
    plain,
)
from stabjax.types import Guard

# Of the bytes, kernels and copies: the text of a program for CPU does not tell them.
_LAUNCHES = ("gpu", "cuda", "rocm", "tpu")


@dataclasses.dataclass(frozen=True)
class ProgramCost:
    """What one compiled optimizer step does.

    Attributes:
        name: Which program.
        bytes: Bytes read and written in a step; None where XLA does not tell.
        temporary: Bytes allocated besides arguments and results.
        kernels: Launches; None on CPU, where they cannot be counted.
        conditionals: Conditionals and loops. On a GPU each stalls the host.
        collectives: Exchanges between devices.
        compile_seconds: CPU seconds to trace, lower and compile.
    """

    name: str
    bytes: float | None
    temporary: int
    kernels: int | None
    conditionals: int
    collectives: int
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Cost:
    """What guards add, see `measure`.

    Attributes:
        unit: N, the bytes of the floating-point parameters.
        leaves: How many arrays of parameters there are.
        backend: What it was compiled for.
        optimizer: The optimizer alone.
        clipped: optax's ``clip_by_global_norm`` and the optimizer.
        guarded: The guarded step from the gradient on, telemetry included.
    """

    unit: int
    leaves: int
    backend: str
    optimizer: ProgramCost
    clipped: ProgramCost
    guarded: ProgramCost

    def share(self, name: str) -> float | None:
        """Return the bytes of the guarded step over those of another program.

        Args:
            name: ``"optimizer"`` or ``"clipped"``.
        """
        ours, theirs = self.guarded.bytes, getattr(self, name).bytes
        return ours / theirs if ours is not None and theirs else None


def measure(
    params: Any,
    optimizer: optax.GradientTransformation,
    guards: Sequence[Guard] | None,
    *,
    place: Callable[[Any], jax.sharding.Sharding] | None = None,
    components: Sequence[str] = ("raw/task", "weighted/task"),
    metrics: Sequence[str] = (),
    **options: Any,
) -> Cost:
    """Compile a step three times for the default backend, and count what it does.

    Nothing is run and no parameter is allocated: only shapes count. The gradient is
    given, so that the three programs differ in what follows it alone.

    Args:
        params: Parameters, or their shapes as `jax.ShapeDtypeStruct`.
        optimizer: The inner optimizer, without clipping of its own.
        guards: As for `stabjax.make_train_step`.
        place: Says for each leaf, of parameters and state, where it lies; the default
            device if None.
        components: Names of the loss components that the guards find.
        metrics: Names of the metrics that the guards find.
        **options: Of `stabjax.make_train_step`, such as ``snapshot_every``.

    Returns:
        The counts.

    Raises:
        ValueError: If the optimizer, the guards and the parameters do not fit.

    Example:
        >>> from stabjax.guards import clip_by_global_norm
        >>> shapes = {"w": jax.ShapeDtypeStruct((64, 64), "float32")}
        >>> cost = measure(shapes, optax.adamw(1e-3), [clip_by_global_norm()])
        >>> cost.unit, cost.guarded.bytes > cost.optimizer.bytes
        (16384, True)
    """
    if place is not None:
        # What `init` does by itself where it finds parameters sharded.
        options = {"sample_updates": False} | options
    ours = guarded(optimizer, guards, components=components, metrics=metrics, **options)
    clipped = optax.chain(optax.clip_by_global_norm(1.0), optimizer)
    leaves = [leaf for leaf in jax.tree.leaves(params) if is_inexact(leaf)]
    return Cost(
        unit=bytes_of(params),
        leaves=len(leaves),
        backend=jax.default_backend(),
        optimizer=_count("optimizer", plain(optimizer), params, place),
        clipped=_count("optax clip + optimizer", plain(clipped), params, place),
        guarded=_count("optimizer + guards", ours, params, place),
    )


def _count(
    name: str,
    program: Program,
    params: Any,
    place: Callable[[Any], jax.sharding.Sharding] | None,
) -> ProgramCost:
    start = time.process_time()
    compiled = compile_for(program, params, place)
    seconds = time.process_time() - start
    counts = hlo.traffic(compiled.as_text() or "")
    launches = jax.default_backend() in _LAUNCHES
    memory: Any = compiled.memory_analysis()
    return ProgramCost(
        name=name,
        bytes=_bytes(compiled, counts, launches),
        temporary=int(memory.temp_size_in_bytes),
        kernels=counts.kernels if launches else None,
        conditionals=counts.conditionals,
        collectives=counts.collectives,
        compile_seconds=round(seconds, 2),
    )


def _bytes(
    compiled: jax.stages.Compiled, counts: hlo.Traffic, launches: bool
) -> float | None:
    if not launches:
        return accessed(compiled)
    # What lies behind a conditional is not counted.
    return None if counts.conditionals else float(counts.bytes)
