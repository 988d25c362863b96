"""Print the CPU seconds to trace, lower and compile a train step, guards on and off.

    python benchmarks/compile_time.py step transformer mlp
    python benchmarks/compile_time.py optimizer transformer mlp --target gpu

``step`` is the whole train step, loss and gradient included; ``optimizer`` is what
follows the gradient. Every repetition starts with the caches of JAX cleared, and the
variants take turns; seconds are those of the process on all its threads, since a
compiler uses several and the machine is shared. A small program is compiled first,
so that what a process pays once is in none of them.

One JSON object per tree: medians per variant, the ratio of the totals to optax's
``chain(clip_by_global_norm, adamw)``, and how long its program is. The compiler for a
GPU needs no GPU, see ahead_of_time.py.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import ahead_of_time
import jax
import jax.numpy as jnp
import optax
import programs
from steps import BATCHES, LOSSES

from stabjax.cost.shapes import spread_over
from stabjax.train_step import make_train_step

REFERENCE = "clip+adamw"


class Traceable(NamedTuple):
    """What is compiled: a function and the shapes that it is given."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Seconds(NamedTuple):
    """CPU seconds of the three phases, and the instructions of the result."""

    trace: float
    lower: float
    compile: float
    instructions: int

    @property
    def total(self) -> float:
        """CPU seconds of all three."""
        return self.trace + self.lower + self.compile


def optimizers() -> dict[str, optax.GradientTransformation]:
    """Return the unguarded variants by name."""
    return {
        REFERENCE: programs.clipped(),
        "apply_if_finite(clip+adamw)": optax.apply_if_finite(programs.clipped(), 10),
    }


def steps(tree_name: str, form: str) -> dict[str, Traceable]:
    """Return whole train steps: gradient, optimizer, and guards if any."""
    tree, loss_fn, batch = (t[tree_name]() for t in (programs.TREES, LOSSES, BATCHES))

    def plain(optimizer: optax.GradientTransformation) -> Traceable:
        def step(state: Any, batch: Any, key: Any) -> Any:
            params, inner = state
            gradient = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, aux), gradients = gradient(params, batch, key)
            updates, inner = optimizer.update(gradients, inner, params)
            return (optax.apply_updates(params, updates), inner), loss, aux

        state = jax.eval_shape(lambda p: (p, optimizer.init(p)), tree)
        return Traceable(step, (state, batch, key_shape()))

    def guarded(guards: Any) -> Traceable:
        train = make_train_step(loss_fn, programs.adamw(), guards=guards, form=form)
        state = jax.eval_shape(train.init, tree, batch)
        # Not `train.step`, which is jitted: a jit in a jit is traced for each.
        return Traceable(train.step.__wrapped__, (state, batch, key_shape()))

    return {name: plain(optimizer) for name, optimizer in optimizers().items()} | {
        "guarded": guarded(programs.all_guards()),
        programs.FAMILY: guarded(programs.whole_family()),
    }


def key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def optimizers_alone(tree_name: str, form: str) -> dict[str, Traceable]:
    """Return the steps from the gradient on."""
    tree = programs.TREES[tree_name]()
    return {
        name: Traceable(program.step, (jax.eval_shape(program.init, tree), tree))
        for name, program in programs.programs(form).items()
    }


SCOPES = {"step": steps, "optimizer": optimizers_alone}


def seconds(what: Traceable) -> Seconds:
    """Trace, lower and compile with empty caches."""
    jax.clear_caches()
    clock = [time.process_time()]
    traced = jax.jit(what.function, donate_argnums=0).trace(*what.arguments)
    clock.append(time.process_time())
    lowered = traced.lower()
    clock.append(time.process_time())
    compiled = lowered.compile()
    clock.append(time.process_time())
    spans = (later - earlier for earlier, later in itertools.pairwise(clock))
    lines = (compiled.as_text() or "").splitlines()
    return Seconds(*spans, instructions=sum(" = " in line for line in lines))


def placed(what: Traceable, target: str) -> Traceable:
    """Return the same for a device of the target."""
    if target == "cpu":
        return what
    place = spread_over(ahead_of_time.mesh(target, 1))

    def there(leaf: Any) -> Any:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(leaf))

    return what._replace(arguments=jax.tree.map(there, what.arguments))


def measure(
    scope: str, tree: str, target: str, repetitions: int, only: list[str] | None
) -> dict[str, dict[str, float]]:
    """Compile all variants in turns and return their medians."""
    form = "branch" if target == "cpu" else "select"
    variants = {
        name: placed(what, target)
        for name, what in SCOPES[scope](tree, form).items()
        if only is None or name in only or name == REFERENCE
    }
    seconds(placed(Traceable(lambda x: jnp.sin(x) @ x, (jnp.ones((8, 8)),)), target))
    found: dict[str, list[Seconds]] = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, what in variants.items():
            found[name].append(seconds(what))
    pairs = {
        name: [ours.total / base.total for ours, base in zip(
            runs, found[REFERENCE], strict=True)]
        for name, runs in found.items()
    }  # fmt: skip
    return {name: _row(runs, pairs[name]) for name, runs in found.items()}


def _row(runs: list[Seconds], ratios: list[float]) -> dict[str, float]:
    median = statistics.median
    return {
        "trace": round(median(run.trace for run in runs), 2),
        "lower": round(median(run.lower for run in runs), 2),
        "compile": round(median(run.compile for run in runs), 2),
        "total": round(median(run.total for run in runs), 2),
        "ratio": round(median(ratios), 3),
        "instructions": runs[-1].instructions,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scope", choices=sorted(SCOPES))
    parser.add_argument("trees", nargs="+", choices=sorted(programs.TREES))
    parser.add_argument("--target", default="cpu", choices=("cpu", "gpu", "tpu"))
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="variants beside the reference")
    arguments = parser.parse_args()
    for tree in arguments.trees:
        rows = measure(
            arguments.scope,
            tree,
            arguments.target,
            arguments.repetitions,
            arguments.only,
        )
        record = {"scope": arguments.scope, "target": arguments.target, "tree": tree}
        record |= {"jax": jax.__version__, "repetitions": arguments.repetitions}
        print(json.dumps(record | {"programs": rows}), flush=True)


if __name__ == "__main__":
    main()
