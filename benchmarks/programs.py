"""The programs that are compared: AdamW with and without guards, on trees of arrays.

Everything here works on shapes, so that a program can be compiled for a target that
is not there. The unit of traffic is N, the bytes of the parameters.
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stabjax import guards
from stabjax.cost import program as step_program
from stabjax.cost.program import Program as Program
from stabjax.cost.program import accessed as accessed
from stabjax.cost.program import bytes_of as bytes_of
from stabjax.cost.program import compile_for as compile_for
from stabjax.cost.program import plain as plain

LEARNING_RATE = 1e-3
MAX_NORM = 1.0
FAMILY = "whole family"
METRICS = ("count", "share")


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
    "tiny2000": functools.partial(tiny, leaves=2000),
}


def _f32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def all_guards(groups: Sequence[str] = ("head",)) -> list[guards.Guard]:
    """Return what a run has by default and more; every tree has a ``head``."""
    return [
        guards.clip_by_global_norm(max_norm=MAX_NORM),
        guards.clip_by_group_norm(max_norm=MAX_NORM, groups=groups),
        guards.skip_nonfinite(),
        guards.skip_spikes(),
        guards.reduce_on_plateau(patience=100),
        guards.back_off(),
        guards.escalate(max_rollbacks=0),
    ]


def whole_family() -> list[guards.Guard]:
    """Return one of every guard but `reset_moments`, snapshots apart.

    A reset lies in a branch that is seldom taken, which XLA counts as if it were.
    """
    watchers = [
        guards.dead_gradient(metric="share"),
        guards.empty_set(metric="count"),
        guards.metric_range(metric="share", low=-1e9, high=1e9),
        guards.saturation(metric="share"),
        guards.sentinel(metric="share"),
        guards.trivial_baseline(baseline=2.3),
    ]
    return [
        *all_guards(),
        *watchers,
        guards.clip_by_block_rms(),
        guards.clip_update_spikes(),
        guards.dynamic_loss_scale(),
        guards.repair_nonfinite(),
        guards.skip_large(max_norm=1e4),
        guards.update_ratio_band(),
        guards.zclip(),
    ]


def guarded(form: str | None = None, **options: Any) -> Program:
    """Return the apply-level face with all guards, counters and telemetry."""
    settings = {"guards": all_guards(), "window": 50, "form": form} | options
    return step_program.guarded(adamw(), **settings)


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
        FAMILY: guarded(form, metrics=METRICS, **options | {"guards": whole_family()}),
    }
