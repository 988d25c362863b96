"""What every face to optax asks of its guards."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core import apply as core_apply
from stabjax.core.apply import Applier, Form
from stabjax.core.given import check_optimizer, check_params
from stabjax.guards.given import flattened
from stabjax.types import Guard

# What to write for a whole equinox model.
_FILTERED = "optimizer.init(eqx.filter(model, eqx.is_inexact_array))"


def listed(function: str, *guards: Any) -> tuple[Guard, ...]:
    """Return the guards of a face; raise unless all work without a train step.

    Args:
        function: Name of the function that was called.
        *guards: What was given, see `stabjax.guards.given.flattened`.

    Returns:
        The guards.

    Raises:
        TypeError: If one is not a `Guard`.
        ValueError: If one scales the loss, which only a train step can undo.
    """
    found = flattened(function, *guards)
    for given in found:
        if given.loss_scale is not None:
            raise ValueError(
                f"{function}: {given.name} scales the loss; use it in make_train_step."
            )
    return found


def check_inner(function: str, inner: Any) -> None:
    """Raise TypeError unless ``inner`` is an optax transformation."""
    check_optimizer(function, "inner", inner, f"{function}(optax.adamw(1e-3), ...)")


def check_leaves(function: str, params: PyTree) -> None:
    """Raise TypeError, with the path of the first, if a leaf is no array."""
    check_params(function, params, _FILTERED)


def moving(params: PyTree | None, updates: PyTree) -> PyTree | None:
    """Return the parameters without what has no gradient, such as functions.

    Args:
        params: The parameters, or a whole model, or None.
        updates: The gradient, with None where there is none.

    Returns:
        A tree of the structure of ``updates``.
    """
    none = lambda leaf: leaf is None
    if params is None or not any(map(none, jax.tree.leaves(updates, is_leaf=none))):
        return params
    return jax.tree.map(
        lambda g, p: None if g is None else p, updates, params, is_leaf=none
    )


def require_loss(function: str, guards: Sequence[Guard], value: Any) -> None:
    """Raise ValueError if a guard judges on the loss and there is none."""
    readers = [given.name for given in guards if given.reads_loss]
    if readers and value is None:
        raise ValueError(
            f"{function}: {readers[0]} judges on the loss; pass it as value= to "
            "update. flax's TrainState.apply_gradients does not forward it (nnx's "
            "Optimizer.update does): write updates, opt_state = state.tx.update("
            "grads, state.opt_state, state.params, value=loss)."
        )


def fresh_state(
    inner: optax.GradientTransformation,
    params: PyTree | None,
    updates: PyTree,
    like: PyTree,
) -> PyTree:
    """Return the state ``like`` with the first moments of its optimizer."""
    # Without parameters it can be none that starts from them.
    params = jax.tree.map(jnp.zeros_like, updates) if params is None else params
    return core_apply.fresh_state(inner, params, like)


def judge_and_keep(
    move: Callable[[PyTree, Any], Any], guards: Sequence[Guard], form: Form
) -> Applier:
    """Return what moves a state, as the guards allow, and keeps it otherwise.

    The core does this for the state of any optimizer, and so also for what is none:
    moments by themselves, or a mean of gradients. Its parameters are ``()``.

    Args:
        move: ``(gradients, state) -> state``, at most quadratic in the gradient.
        guards: The guards.
        form: See `stabjax.train_step.make_train_step`.

    Returns:
        The core's applier, for a `Trial` with the parameters ``()``.
    """

    def init(params: PyTree) -> PyTree:
        return params

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        del extra_args
        return params, move(updates, state)

    # A reset waits until the update has been formed, which reads the state; and until
    # then there is nothing to bound.
    judges = tuple(
        dataclasses.replace(given, resets_moments=False, bounds_updates=False)
        for given in guards
    )
    return Applier(
        optimizer=optax.GradientTransformationExtraArgs(init, update),
        guards=judges,
        form=form,
        finite_check="headroom",
        # Nothing here tells whether leaves are sharded. A select, the form for
        # accelerators, is ready for it; on CPU that would be one more read.
        spread=form == "select",
    )
