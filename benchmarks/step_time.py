"""Time guarded steps against optax and against what most people write by hand.

    python benchmarks/step_time.py [--rounds 25] [--out benchmarks/results]

Four tables, all on the default device: the optimizer alone; a refused step; a whole
train step, with the host-side patterns; and how long the host is busy enqueueing.
Ratios are against optax's `chain(clip_by_global_norm, adamw)`.
"""

import argparse
import json
import os
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import timing

from stabjax.train_step import make_train_step

REFERENCE = "clip+adamw"
STEPS = 20


def materialize(shapes: Any, seed: int, scale: float) -> Any:
    """Return random arrays of the given shapes."""
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda s: jnp.asarray(scale * random.standard_normal(s.shape), s.dtype), shapes
    )


def stepper(program: programs.Program, params: Any, gradients: Any):
    """Return a function that runs one donated optimizer step to its end."""
    state = program.init(jax.tree.map(jnp.copy, params))
    step = jax.jit(program.step, donate_argnums=0)

    def run() -> None:
        nonlocal state
        state = jax.block_until_ready(step(state, gradients))

    return run


def optimizer_alone(tree: str, rounds: int, poison: bool) -> dict[str, Any]:
    """Time one optimizer step; with ``poison`` every gradient is NaN."""
    shapes = programs.TREES[tree]()
    params = materialize(shapes, 0, 0.02)
    gradients = materialize(shapes, 1, 0.02)
    if poison:
        gradients = jax.tree.map(lambda g: g * jnp.nan, gradients)
    variants = {
        name: stepper(program, params, gradients)
        for name, program in programs.programs().items()
    }
    return timing.interleave(variants, REFERENCE, rounds)


def loss_fn(params: Any, batch: Any, key: Any) -> tuple[jax.Array, dict[str, Any]]:
    """Cross-entropy of the multilayer perceptron."""
    del key
    images, labels = batch
    hidden = images
    layers = sorted(params, key=lambda name: (name == "head", name))
    for name in layers:
        layer = params[name]
        hidden = hidden @ layer["kernel"] + layer["bias"][None, :]
        if name != "head":
            hidden = jax.nn.relu(hidden)
    loss = optax.softmax_cross_entropy_with_integer_labels(hidden, labels).mean()
    return loss, {"raw/task": loss, "weighted/task": loss}


def optax_run(params: Any, batch: Any, optimizer: Any) -> Callable[[], None]:
    """Return `STEPS` steps of the usual jitted loop."""
    state = (jax.tree.map(jnp.copy, params), optimizer.init(params))

    @jax.jit
    def step(state: Any, batch: Any) -> Any:
        params, inner = state
        (loss, _), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            params, batch, None
        )
        updates, inner = optimizer.update(gradients, inner, params)
        return (optax.apply_updates(params, updates), inner), loss

    def run() -> None:
        nonlocal state
        for _ in range(STEPS):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return run


def host_run(params: Any, batch: Any, per_leaf: bool) -> Callable[[], None]:
    """Return `STEPS` steps of what most people write: decide on the host."""
    optimizer = programs.clipped()
    state = (jax.tree.map(jnp.copy, params), optimizer.init(params))
    gradient = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))

    @jax.jit
    def apply(state: Any, gradients: Any) -> Any:
        params, inner = state
        updates, inner = optimizer.update(gradients, inner, params)
        return optax.apply_updates(params, updates), inner

    def fine(loss: Any, gradients: Any) -> bool:
        if per_leaf:
            leaves = jax.tree.leaves(gradients)
            return all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)
        norm = float(optax.tree.norm(gradients))
        return bool(np.isfinite(float(loss)) and np.isfinite(norm))

    def run() -> None:
        nonlocal state
        for _ in range(STEPS):
            (loss, _), gradients = gradient(state[0], batch, None)
            if fine(loss, gradients):
                state = apply(state, gradients)
        jax.block_until_ready(state)

    return run


def guarded_run(params: Any, batch: Any) -> Callable[[], None]:
    """Return `STEPS` steps of ours with all guards on."""
    train = make_train_step(loss_fn, programs.adamw(), guards=programs.all_guards())
    state = train.init(params, batch)
    key = jax.random.key(0)

    def run() -> None:
        nonlocal state
        for _ in range(STEPS):
            state, _ = train.step(state, batch, key)
        jax.block_until_ready(state)

    return run


def whole_step(rounds: int) -> dict[str, Any]:
    """Time `STEPS` train steps of the perceptron, batch 64."""
    params = materialize(programs.mlp(), 0, 0.02)
    random = np.random.default_rng(2)
    batch = (
        jnp.asarray(random.standard_normal((64, 784)), jnp.float32),
        jnp.asarray(random.integers(0, 10, 64), jnp.int32),
    )
    variants = {
        "adamw": optax_run(params, batch, programs.adamw()),
        REFERENCE: optax_run(params, batch, programs.clipped()),
        "apply_if_finite(clip+adamw)": optax_run(
            params, batch, optax.apply_if_finite(programs.clipped(), 10)
        ),
        "host: float(loss), float(norm)": host_run(params, batch, per_leaf=False),
        "host: isfinite per leaf": host_run(params, batch, per_leaf=True),
        "guarded": guarded_run(params, batch),
    }
    return timing.interleave(variants, REFERENCE, rounds)


def enqueue_share() -> float:
    """Return the share of the time in which the host enqueues 32 guarded steps."""
    params = materialize(programs.mlp(), 0, 0.02)
    batch = (jnp.ones((1024, 784)), jnp.zeros((1024,), jnp.int32))
    train = make_train_step(loss_fn, programs.adamw(), guards=programs.all_guards())
    state, key = train.init(params, batch), jax.random.key(0)
    state, _ = jax.block_until_ready(train.step(state, batch, key))
    start = time.perf_counter()
    for _ in range(32):
        state, _ = train.step(state, batch, key)
    enqueued = time.perf_counter() - start
    jax.block_until_ready(state)
    return round(enqueued / (time.perf_counter() - start), 3)


def compile_seconds(tree: str, rounds: int) -> dict[str, float]:
    """Return the CPU seconds to trace, lower and compile, median of some."""
    shapes = programs.TREES[tree]()
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, program in programs.programs().items():
            jax.clear_caches()
            start = time.process_time()
            programs.compile_for(program, shapes)
            found.setdefault(name, []).append(time.process_time() - start)
    return {name: round(float(np.median(v)), 2) for name, v in found.items()}


def show(title: str, table: dict[str, Any]) -> None:
    print(f"\n{title}\n{'':32}{'wall':>7}{'quartiles':>16}{'cpu':>7}{'ms':>10}")
    for name, r in table.items():
        span = f"{r.low:.2f} to {r.high:.2f}"
        print(f"{name:32}{r.wall:7.2f}{span:>16}{r.cpu:7.2f}{r.milliseconds:10.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    rounds = arguments.rounds
    tables = {
        "optimizer alone, 1.2 M parameters": optimizer_alone("mlp", 2 * rounds, False),
        "optimizer alone, 24 M parameters": optimizer_alone(
            "transformer", rounds, False
        ),
        "every step refused, 1.2 M parameters": optimizer_alone(
            "mlp", 2 * rounds, True
        ),
        "20 train steps, 1.2 M parameters": whole_step(rounds),
    }
    for title, table in tables.items():
        show(title, table)
    share, seconds = enqueue_share(), compile_seconds("mlp", 3)
    print(f"\nshare of time spent enqueueing 32 guarded steps: {share}")
    print(f"CPU seconds to compile the optimizer step, 8 leaves: {seconds}")
    if arguments.out:
        record = {
            "command": "python benchmarks/step_time.py",
            "jax": jax.__version__,
            "optax": optax.__version__,
            "device": jax.devices()[0].device_kind,
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "load": os.getloadavg(),
            "ratios": {
                title: {name: r._asdict() for name, r in table.items()}
                for title, table in tables.items()
            },
            "enqueue_share": share,
            "compile_seconds": seconds,
        }
        arguments.out.mkdir(parents=True, exist_ok=True)
        path = arguments.out / f"step_time_{jax.default_backend()}.json"
        path.write_text(json.dumps(record, indent=2) + "\n")
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
