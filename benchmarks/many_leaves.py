"""Time the optimizer step of a tree of many tiny leaves, called and in a scan.

    python benchmarks/many_leaves.py --leaves 300
    python benchmarks/many_leaves.py --leaves 2000

Such a step is bound by the number of its buffers. Two remedies are timed: the flat
state of `stabjax.transforms.flatten`, and a scan of 32 steps in one call, per step.
Ratios are against one call of optax's ``chain(clip_by_global_norm, adamw)``,
interleaved in one process. One JSON object, with the CPU seconds to compile each.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import programs
import timing
from step_time import REFERENCE, materialize

from stabjax.cost import program as step_program
from stabjax.transforms import flatten

STEPS = 32


class Variant(NamedTuple):
    """A program, and how many of its steps are one call."""

    program: programs.Program
    steps: int = 1


def variants() -> dict[str, Variant]:
    """Return what is compared, by name."""
    clipped = programs.plain(programs.clipped())
    flat = step_program.guarded(
        flatten(programs.adamw()), guards=programs.all_guards(), window=50
    )
    return {
        REFERENCE: Variant(clipped),
        "apply_if_finite(clip+adamw)": Variant(
            programs.plain(optax.apply_if_finite(programs.clipped(), 10))
        ),
        "guarded": Variant(programs.guarded()),
        "guarded, flatten": Variant(flat),
        f"clip+adamw, scan of {STEPS}": Variant(clipped, STEPS),
        f"guarded, scan of {STEPS}": Variant(programs.guarded(), STEPS),
        f"guarded, flatten, scan of {STEPS}": Variant(flat, STEPS),
    }


def runner(
    variant: Variant, params: Any, gradients: Any
) -> tuple[Callable[[], None], float]:
    """Return a function that runs one call to its end, and its compile seconds."""
    program, steps = variant
    state = program.init(jax.tree.map(jnp.copy, params))

    def call(state: Any, gradients: Any) -> Any:
        if steps == 1:
            return program.step(state, gradients)
        again = jax.lax.scan(
            lambda s, _: (program.step(s, gradients), None), state, length=steps
        )
        return again[0]

    jax.clear_caches()
    start = time.process_time()
    compiled = jax.jit(call, donate_argnums=0).lower(state, gradients).compile()
    seconds = time.process_time() - start

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(compiled(state, gradients))

    return run, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leaves", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", nargs="+", help="variants beside the reference")
    arguments = parser.parse_args()
    shapes = programs.tiny(arguments.leaves)
    params, gradients = (materialize(shapes, seed, 0.02) for seed in (0, 1))
    chosen = {
        name: variant
        for name, variant in variants().items()
        if not arguments.only or name in (REFERENCE, *arguments.only)
    }
    runs, seconds = {}, {}
    for name, variant in chosen.items():
        runs[name], seconds[name] = runner(variant, params, gradients)
        print(f"{name}: compiled in {seconds[name]:.1f} s", file=sys.stderr, flush=True)
    found = timing.interleave(runs, REFERENCE, arguments.rounds)
    record = {
        "leaves": arguments.leaves,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": [round(load, 1) for load in os.getloadavg()],
        "rounds": arguments.rounds,
        "per_step": {
            name: {
                "wall": round(ratio.wall / chosen[name].steps, 3),
                "cpu": round(ratio.cpu / chosen[name].steps, 3),
                "milliseconds": round(ratio.milliseconds / chosen[name].steps, 3),
                "compile_seconds": round(seconds[name], 1),
            }
            for name, ratio in found.items()
        },
    }
    print(json.dumps(record), flush=True)


if __name__ == "__main__":
    main()
