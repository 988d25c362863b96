"""The two kinds of healthy runs of the bench; runs themselves are in `harm.runs`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import optax


@dataclasses.dataclass(frozen=True)
class Run:
    """A run whose loop the bench owns: a loss, an optimizer and batches.

    It is deterministic given the seed. The step is scanned over the batches, as one
    compiled program for every seed.

    Attributes:
        name: Unique name, such as ``"mlp_adamw_warmup_from_zero"``.
        kind: Family of the run, for the table, such as ``"warm-up"``.
        steps: Micro-steps, 300 to 1200.
        init: ``seed -> params``, a tree of arrays.
        loss: ``(params, batch, key[, model_state=]) -> (loss, aux)``; aux holds
            components named ``raw/<name>``, and ``model_state`` where there is one.
        optimizer: ``() -> optimizer``, its schedule included, without a clip.
        batches: ``seed -> dict`` of numpy arrays with the leading axis ``steps``.
        score: ``(params, model_state, seed) -> final loss`` on held-out or on all
            data; finite, and lower is better.
        clip: The bound of global-norm clipping that people use here, if any.
        model_state: ``seed -> model state`` before the first step, if there is one.
        inputs: Key of a batch that faults may damage; None: they must not.
        labels: Key of the targets that faults may damage; None: they must not.
        every_step_moves: Whether each micro-step moves the parameters; False under
            accumulation.
    """

    name: str
    kind: str
    steps: int
    init: Callable[[int], Any]
    loss: Callable[..., tuple[Any, Any]]
    optimizer: Callable[[], optax.GradientTransformation]
    batches: Callable[[int], Any]
    score: Callable[[Any, Any, int], float]
    clip: float | None = None
    model_state: Callable[[int], Any] | None = None
    inputs: str | None = "x"
    labels: str | None = "y"
    every_step_moves: bool = True


@dataclasses.dataclass(frozen=True)
class OwnLoop:
    """A run that owns its loop and only lets its optimizers be wrapped.

    ``run(wrap, seed, damage)`` returns the score, lower is better, and the final
    states of its optimizers. ``wrap(optimizer)`` is called once for each optimizer,
    and what it returns is updated by ``update(grads, state, params, value=loss)``.
    ``damage(batch, step)`` is called inside the loop on each batch, a dict whose
    inputs are ``"x"`` and whose targets, if it has any, are ``"y"``; ``step`` counts
    micro-steps from 0. The program is compiled once for each pair of ``wrap`` and
    ``damage`` objects while the same two are given, whatever the seed.

    Attributes:
        name: Unique name.
        kind: Family of the run, for the table.
        steps: Micro-steps: calls of ``damage``.
        run: The loop.
    """

    name: str
    kind: str
    steps: int
    run: Callable[[Callable, int, Any], tuple[float, list]]


def compiler_options() -> dict[str, str | bool] | None:
    """Return the options to compile small programs with; None but on CPU.

    They compile to a seventh of the time and run half as fast, which pays where a
    run takes a tenth of a second.
    """
    if jax.default_backend() != "cpu":
        return None
    options: dict[str, str | bool] = {"xla_backend_optimization_level": "0"}
    if _has_emitters():
        options["xla_cpu_use_fusion_emitters"] = False
    return options


@functools.cache
def _has_emitters() -> bool:
    """Return whether this version of XLA can be told not to use them."""
    option: dict[str, str | bool] = {"xla_cpu_use_fusion_emitters": False}
    try:
        jax.jit(lambda: 0, compiler_options=option).lower().compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


def jit_quickly(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` jitted with `compiler_options`, not to be called in a jit."""
    return jax.jit(function, compiler_options=compiler_options())
