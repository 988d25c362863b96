"""One optimizer step as a program, compiled for shapes and counted."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stabjax.core.layout import is_inexact
from stabjax.train_step import make_train_step
from stabjax.types import Guard


@dataclasses.dataclass(frozen=True)
class Program:
    """One optimizer step.

    Attributes:
        step: ``(state, gradients) -> state``.
        init: Parameters to the first state.
    """

    step: Callable[[Any, Any], Any]
    init: Callable[[Any], Any]


def plain(optimizer: optax.GradientTransformation) -> Program:
    """Return the optax program: update, then apply."""
    optimizer = optax.with_extra_args_support(optimizer)

    def step(state: Any, gradients: Any) -> Any:
        params, inner = state
        updates, inner = optimizer.update(
            gradients, inner, params, value=jnp.float32(1.0)
        )
        return optax.apply_updates(params, updates), inner

    return Program(step, lambda params: (params, optimizer.init(params)))


def guarded(
    optimizer: optax.GradientTransformation,
    guards: Sequence[Guard] | None,
    *,
    components: Sequence[str] = ("raw/task", "weighted/task"),
    metrics: Sequence[str] = (),
    **options: Any,
) -> Program:
    """Return the train step from the gradient on, counters and telemetry included.

    Args:
        optimizer: The inner optimizer.
        guards: The guards.
        components: Names of the loss components, ``raw/<name>``, ``weighted/<name>``.
        metrics: Names of the metrics that the loss reports besides.
        **options: Of `stabjax.make_train_step`.

    Returns:
        The program.
    """

    def aux_of(loss: Any) -> dict[str, Any]:
        return dict.fromkeys((*components, *metrics), loss)

    def loss_fn(params: Any, batch: Any, key: Any, /, **kwargs: Any) -> Any:
        del key, kwargs
        total = sum(jnp.sum(jnp.real(x)) for x in jax.tree.leaves(params))
        loss = jnp.asarray(total * jnp.sum(batch), jnp.float32)
        return loss, aux_of(loss)

    train = make_train_step(loss_fn, optimizer, guards=guards, **options)

    def step(state: Any, gradients: Any) -> Any:
        loss = jnp.float32(1.0)
        return train.apply_gradients(state, loss, aux_of(loss), gradients)[0]

    return Program(step, lambda params: train.init(params, jnp.zeros(())))


def compile_for(
    program: Program,
    tree: Any,
    place: Callable[[Any], jax.sharding.Sharding] | None = None,
) -> jax.stages.Compiled:
    """Compile a step for the shapes of ``tree``.

    Args:
        program: The step.
        tree: Parameters, or their shapes.
        place: Says for each leaf where it lies; the default device if None.

    Returns:
        The compiled step, with its state donated.
    """
    state = jax.eval_shape(program.init, tree)
    tree = jax.eval_shape(lambda x: x, tree)
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


def bytes_of(tree: Any) -> int:
    """Return N, the bytes of the floating-point parameters."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
