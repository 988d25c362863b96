"""Print what the folded optimizers and the accumulation move on CPU, beside optax.

    python benchmarks/folded.py mlp transformer

One JSON object per tree, in units of N, the bytes of the parameters, as XLA counts them
for one step with `optax.apply_updates`. XLA counts the dearer branch of a conditional:
for an accumulation that is the micro-step that emits, and of a select on CPU it counts
the second measurement, which runs only where the first overflows.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
import programs

from stabjax import transforms

EVERY = 4


def face(optimizer: optax.GradientTransformation) -> programs.Program:
    """Return the program of an optimizer that is given the loss, and applied."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: Any, gradients: Any) -> Any:
        params, inner = state
        loss = jnp.float32(1.0)
        updates, inner = optimizer.update(gradients, inner, params, value=loss)
        return optax.apply_updates(params, updates), inner

    return programs.Program(step, lambda params: (params, optimizer.init(params)))


def optimizers() -> dict[str, Callable[[], programs.Program]]:
    """Return the optimizers by name: those of optax, ours folded, and one wrapped."""
    rate, guards = programs.LEARNING_RATE, programs.all_guards()
    ours, theirs = transforms, optax

    def pair(name: str, **options: Any) -> dict[str, Callable[[], programs.Program]]:
        label = " ".join([name, *options])
        return {
            f"optax {label}": lambda: face(getattr(theirs, name)(rate, **options)),
            f"folded {label}": lambda: face(
                getattr(ours, name)(rate, **options, guards=guards)
            ),
        }

    return (
        pair("adamw")
        | pair("adamw", nesterov=True)
        | pair("adamw", mu_dtype=jnp.bfloat16)
        | pair("sgd")
        | pair("sgd", momentum=0.9)
        | pair("sgd", momentum=0.9, nesterov=True)
        | pair("lion")
        | {"guard around adamw": lambda: face(transforms.guard(optax.adamw(rate)))}
    )


def accumulations() -> dict[str, Callable[[], programs.Program]]:
    """Return the accumulations by name; ``rests`` is a micro-step between two updates.

    An inner optimizer that gives zeros costs what it costs not to emit.
    """
    adamw, skip = programs.adamw(), optax.skip_not_finite
    accumulate = transforms.accumulate
    return {
        "MultiSteps": lambda: face(optax.MultiSteps(adamw, EVERY)),
        "MultiSteps skip_not_finite": lambda: face(
            optax.MultiSteps(adamw, EVERY, should_skip_update_fn=skip)
        ),
        "accumulate emits": lambda: face(accumulate(adamw, EVERY)),
        "accumulate rests": lambda: face(accumulate(optax.set_to_zero(), EVERY)),
        "accumulate emits, all guards": lambda: face(
            accumulate(adamw, EVERY, *programs.all_guards())
        ),
        "accumulate selects": lambda: face(accumulate(adamw, EVERY, form="select")),
    }


def measure(make: Callable[[], programs.Program], tree: Any) -> dict[str, float]:
    """Compile a program and read XLA's analyses, in units of N."""
    unit = programs.bytes_of(tree)
    compiled = programs.compile_for(make(), tree)
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return {
        "bytes": round(programs.accessed(compiled) / unit, 3),
        "temporary": round(temporary / unit, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trees", nargs="+", choices=sorted(programs.TREES))
    for name in parser.parse_args().trees:
        tree = programs.TREES[name]()
        made = optimizers() | accumulations()
        rows = {label: measure(make, tree) for label, make in made.items()}
        record = {"target": "cpu", "tree": name, "jax": jax.__version__}
        print(json.dumps(record | {"programs": rows}), flush=True)


if __name__ == "__main__":
    main()
