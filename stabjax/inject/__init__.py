"""Faults on purpose: break one thing at one step, and see what a guard makes of it.

A `Fault` says what happens, where and when. `into_loss` puts faults into a loss, its
components, its gradient or its batch, inside the compiled step; `into_state` puts them
into anything a step carries, between two steps. Without a fault `into_loss` returns
the very function it was given, so a step built from it is the same program.
"""

import functools
import inspect
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from stabjax.core.loss_form import uniform
from stabjax.core.loss_result import taken_apart
from stabjax.inject.damage import damage
from stabjax.inject.fault import ALWAYS as ALWAYS
from stabjax.inject.fault import Fault as Fault
from stabjax.inject.fault import Kind as Kind
from stabjax.inject.fault import Shard as Shard
from stabjax.inject.fault import When as When
from stabjax.inject.fault import one_of
from stabjax.inject.fault import sometimes as sometimes
from stabjax.losses._weigh import takes_state
from stabjax.types import Count, Loss

_SECTIONS = ("loss", "aux", "gradient", "batch")


def into_loss(loss_fn: Loss, *faults: Fault, enabled: bool = True) -> Loss:
    """Return the loss with faults in what it takes and returns.

    What is not hit keeps its bits. A fault in the loss or in ``aux`` leaves the
    gradient as it is, and one in the gradient leaves the loss: each is the fault of
    one place alone. A fault in the batch goes through the model.

    Args:
        loss_fn: The loss. `stabjax.make_train_step` passes the step by itself.
        *faults: Applied in this order.
        enabled: Switches all of them off.

    Returns:
        A loss that takes ``step=``; ``loss_fn`` itself, the same object, if there is
        no fault or they are switched off.

    Raises:
        ValueError: If ``where`` starts with something else; or, when the loss is
            traced, if nothing floating-point lies there.

    Gradient:
        That of ``loss_fn``, damaged where a fault names the gradient.

    Example:
        >>> def loss_fn(params, batch, key):
        ...     return jnp.sum(params["w"] ** 2), {}
        >>> broken = into_loss(loss_fn, Fault("inf", "gradient/w", when=3, element=0))
        >>> gradient = jax.grad(lambda p: broken(p, None, None, step=3)[0])
        >>> print(gradient({"w": jnp.ones(2)})["w"])
        [inf  2.]
    """
    if not faults or not enabled:
        return loss_fn
    for fault in faults:
        one_of("the first part of where", fault.where.split("/")[0], _SECTIONS)
    into = functools.partial(_select, faults)
    whole = uniform("into_loss", loss_fn)

    def broken(
        params: PyTree, batch: PyTree, key: Any, /, *, step: Count | int, **kwargs: Any
    ) -> tuple[Array, dict[str, Any]]:
        if whole.wants_step:
            kwargs["step"] = step
        step = jnp.asarray(step, jnp.int32)
        params = _break_gradient(into("gradient"), params, step)
        batch = damage({"batch": batch}, into("batch"), step)["batch"]
        result = whole.result_of(params, batch, key, **kwargs)
        loss, aux = taken_apart(whole.origin, result)
        outputs: Any = {"loss": loss, "aux": dict(aux)}
        outputs = _break_value(into("loss", "aux"), outputs, step)
        return outputs["loss"], outputs["aux"]

    signature = inspect.signature(broken)
    functools.update_wrapper(broken, whole.loss_fn)
    # It takes the place of the loss, but not its arguments.
    broken.__signature__ = signature
    broken.wants_step, broken.takes_state = True, takes_state(whole.loss_fn)
    return broken


def into_state(state: Any, *faults: Fault, step: Count | int = 0) -> Any:
    """Return a state, or any tree, with faults in its leaves.

    Between two steps it damages what no loss can reach: parameters, moments, model
    state, the state of a guard. It runs on the host or inside a jitted function.

    Args:
        state: Any tree; a `stabjax.train_step.TrainState`, or ``(params, state)``.
        *faults: Applied in this order; ``where`` is a path in ``state``.
        step: Compared with ``when``, which by default always holds.

    Returns:
        The same tree with the damaged elements.

    Raises:
        ValueError: If nothing floating-point lies at ``where``.

    Example:
        >>> state = {"nu": jnp.ones(3), "count": jnp.int32(5)}
        >>> print(into_state(state, Fault("inf", "nu", element=-1))["nu"])
        [ 1.  1. inf]
    """
    return damage(state, faults, jnp.asarray(step, jnp.int32))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _break_gradient(faults: tuple[Fault, ...], params: PyTree, step: Count) -> PyTree:
    del faults, step
    return params


def _break_gradient_backward(faults, step, gradient):
    return damage({"gradient": gradient}, faults, step)["gradient"], None


_break_gradient.defvjp(
    lambda faults, params, step: (params, step), _break_gradient_backward
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _break_value(faults: tuple[Fault, ...], value: PyTree, step: Count) -> PyTree:
    return damage(value, faults, step)


_break_value.defvjp(
    lambda faults, value, step: (damage(value, faults, step), None),
    lambda faults, _, cotangent: (cotangent, None),
)


def _select(faults: tuple[Fault, ...], *sections: str) -> tuple[Fault, ...]:
    return tuple(f for f in faults if f.where.split("/")[0] in sections)
