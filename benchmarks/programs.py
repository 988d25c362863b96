"""The programs that are compared: AdamW with and without guards, on trees of arrays.

Everything here works on shapes, so that a program can be compiled for a target that
is not there. The unit of traffic is N, the bytes of the parameters.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stabjax import guards
from stabjax.train_step import make_train_step

LEARNING_RATE = 1e-3
MAX_NORM = 1.0


def mlp() -> dict[str, Any]:
    """Return the shapes of a multilayer perceptron: 1.2 M parameters, 8 leaves."""
    widths = (784, 1024, 384, 64, 10)
    tree = {}
    for i, (rows, columns) in enumerate(itertools.pairwise(widths)):
        name = "head" if i == len(widths) - 2 else f"layer{i}"
        tree[name] = {"kernel": _f32(rows, columns), "bias": _f32(columns)}
    return tree


def transformer(layers: int = 12, width: int = 400) -> dict[str, Any]:
    """Return the shapes of a small transformer: 148 leaves, 24.6 M parameters."""
    tree: dict[str, Any] = {"embedding": _f32(3200, width), "head": _f32(width, 200)}
    tree["norm"] = {"scale": _f32(width), "bias": _f32(width)}
    for i in range(layers):
        square = {name: _f32(width, width) for name in ("q", "k", "v", "o")}
        tree[f"layer{i}"] = square | {
            "up": _f32(width, 4 * width),
            "up_bias": _f32(4 * width),
            "down": _f32(4 * width, width),
            "down_bias": _f32(width),
            "norm1": {"scale": _f32(width), "bias": _f32(width)},
            "norm2": {"scale": _f32(width), "bias": _f32(width)},
        }
    return tree


def tiny(leaves: int = 300, size: int = 64) -> dict[str, Any]:
    """Return many small leaves."""
    tree = {f"leaf{i:04d}": _f32(size) for i in range(leaves - 1)}
    return tree | {"head": _f32(size)}


TREES: dict[str, Callable[[], dict[str, Any]]] = {
    "mlp": mlp,
    "transformer": transformer,
    "tiny300": tiny,
}


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def bytes_of(tree: Any) -> int:
    """Return N, the bytes of the parameters."""
    return sum(4 * math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class Program:
    """One optimizer step: a function of (state, gradients), the state donated."""

    step: Callable[[Any, Any], Any]
    init: Callable[[Any], Any]


def all_guards(groups: Sequence[str] = ("head",)) -> list[guards.Guard]:
    """Return one of every guard, snapshots apart; every tree has a ``head``."""
    return [
        guards.clip_by_global_norm(max_norm=MAX_NORM),
        guards.clip_by_group_norm(max_norm=MAX_NORM, groups=groups),
        guards.skip_nonfinite(),
        guards.skip_spikes(),
        guards.reduce_on_plateau(patience=100),
        guards.back_off(),
        guards.escalate(max_rollbacks=0),
    ]


def plain(optimizer: optax.GradientTransformation) -> Program:
    """Return the optax program: update, then apply."""

    def step(state: Any, gradients: Any) -> Any:
        params, inner = state
        updates, inner = optimizer.update(gradients, inner, params)
        return optax.apply_updates(params, updates), inner

    return Program(step, lambda params: (params, optimizer.init(params)))


def guarded(form: str | None = None, **options: Any) -> Program:
    """Return the apply-level face with all guards, counters and telemetry."""

    def loss_fn(params: Any, batch: Any, key: Any):
        del key
        loss = sum(jnp.sum(x) for x in jax.tree.leaves(params)) * jnp.sum(batch)
        return loss, {"raw/task": loss, "weighted/task": loss}

    settings = {"guards": all_guards(), "window": 50} | options
    train = make_train_step(loss_fn, adamw(), form=form, **settings)

    def step(state: Any, gradients: Any) -> Any:
        loss = jnp.float32(1.0)
        aux = {"raw/task": loss, "weighted/task": loss}
        return train.apply_gradients(state, loss, aux, gradients)[0]

    return Program(step, lambda params: train.init(params, jnp.zeros(())))


def adamw() -> optax.GradientTransformation:
    return optax.adamw(LEARNING_RATE)


def clipped() -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(MAX_NORM), adamw())


def programs(form: str | None = None, **options: Any) -> dict[str, Program]:
    """Return the programs by name, ours last and with the options given."""
    return {
        "adamw": plain(adamw()),
        "clip+adamw": plain(clipped()),
        "apply_if_finite(clip+adamw)": plain(optax.apply_if_finite(clipped(), 10)),
        "guarded": guarded(form, **options),
    }


def compile_for(
    program: Program,
    tree: Any,
    place: Callable[[Any], jax.sharding.Sharding] | None = None,
) -> jax.stages.Compiled:
    """Compile a step for the shapes of ``tree``.

    Args:
        program: The step.
        tree: Shapes of the parameters.
        place: Says for each leaf where it lies; the default device if None.

    Returns:
        The compiled step, with its state donated.
    """
    state = jax.eval_shape(program.init, tree)
    if place is not None:

        def placed(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place(leaf))

        state, tree = jax.tree.map(placed, (state, tree))
    return jax.jit(program.step, donate_argnums=0).lower(state, tree).compile()


def accessed(compiled: jax.stages.Compiled) -> float:
    """Return the bytes that XLA says the program reads and writes."""
    analysis = compiled.cost_analysis()
    assert analysis is not None
    return float(analysis["bytes accessed"])
