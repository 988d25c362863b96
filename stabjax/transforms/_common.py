"""What every face to optax asks of its guards."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import optax
from jaxtyping import PyTree

from stabjax.core import apply as core_apply
from stabjax.core.apply import Applier, Form
from stabjax.types import Guard

GuardsLike = Guard | Sequence[Guard]


def flattened(function: str, guards: Sequence[Any]) -> tuple[Guard, ...]:
    """Return guards given one by one or in sequences as one tuple, checked."""
    flat: list[Any] = []
    for given in guards:
        flat.extend(given if isinstance(given, list | tuple) else [given])
    check_guards(function, flat)
    return tuple(flat)


def check_guards(function: str, guards: Sequence[Any]) -> None:
    """Raise unless all are guards that work without a train step.

    Args:
        function: Name of the function that was called.
        guards: What was given.

    Raises:
        TypeError: If one is not a `Guard`.
        ValueError: If one scales the loss, which only a train step can undo.
    """
    for given in guards:
        if not isinstance(given, Guard):
            raise TypeError(f"{function}: every guard must be a Guard, got {given!r}.")
        if given.loss_scale is not None:
            raise ValueError(
                f"{function}: {given.name} scales the loss; use it in make_train_step."
            )


def require_loss(function: str, guards: Sequence[Guard], value: Any) -> None:
    """Raise ValueError if a guard judges on the loss and there is none."""
    readers = [given.name for given in guards if given.reads_loss]
    if readers and value is None:
        raise ValueError(
            f"{function}: {readers[0]} judges on the loss; pass it as value= to update."
        )


def fresh_state(
    function: str,
    inner: optax.GradientTransformation,
    params: PyTree | None,
    like: PyTree,
) -> PyTree:
    """Return the first state of an optimizer, in the dtypes of ``like``."""
    if params is None:
        raise ValueError(
            f"{function}: a guard that resets moments needs params in update."
        )
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

    # A reset waits until the update has been formed, which reads the state.
    judges = tuple(dataclasses.replace(g, resets_moments=False) for g in guards)
    return Applier(
        optimizer=optax.GradientTransformationExtraArgs(init, update),
        guards=judges,
        form=form,
        finite_check="headroom",
        # Nothing here tells whether leaves are sharded. A select, the form for
        # accelerators, is ready for it; on CPU that would be one more read.
        spread=form == "select",
    )
