"""What moves outside of a guarded optimizer learns whether its step was applied."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from stabjax.core import judge as judging
from stabjax.core.elementwise import select
from stabjax.types import Flag


def was_applied(opt_state: Any) -> Flag:
    """Return whether the last step of a guarded optimizer was applied.

    Can be traced, so that the answer never leaves the device.

    Args:
        opt_state: The state after ``update``, or what holds it: an optax chain, flax's
            ``TrainState``, an ``nnx.Optimizer``. With several guards all must have
            applied it.

    Returns:
        True if it was, and before the first step.

    Raises:
        ValueError: If there is no guard in it.

    Example:
        >>> import optax
        >>> from stabjax import guard
        >>> optimizer = guard(optax.sgd(0.1))
        >>> params = {"w": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> _, state = optimizer.update({"w": jnp.full(2, jnp.nan)}, state, params)
        >>> bool(was_applied(state))
        False
    """
    inside = getattr(opt_state, "opt_state", opt_state)
    nodes = jax.tree.leaves(inside, is_leaf=_is_core)
    streaks = [node.consecutive_refused for node in nodes if _is_core(node)]
    if not streaks:
        raise ValueError(
            "was_applied: opt_state must hold the state of stabjax.guard, "
            f"got {type(opt_state).__name__}."
        )
    applied = [jnp.asarray(streak) == 0 for streak in streaks]
    return functools.reduce(jnp.logical_and, applied)


def keep_if_refused(opt_state: Any, new: PyTree, old: PyTree) -> PyTree:
    """Return ``new``, or ``old`` if the last step was refused.

    For what moves beside the optimizer and would else take in the batch that was
    refused: statistics of a batch normalization, an average of the weights, a target
    network, a carried recurrent state.

    Args:
        opt_state: As in `was_applied`.
        new: A tree of arrays.
        old: What it was before the step.

    Returns:
        One of both, selected leaf by leaf on the device.

    Example:
        >>> import optax
        >>> from stabjax import guard
        >>> optimizer = guard(optax.sgd(0.1))
        >>> params = {"w": jnp.ones(2)}
        >>> state = optimizer.init(params)
        >>> _, state = optimizer.update({"w": jnp.full(2, jnp.nan)}, state, params)
        >>> float(keep_if_refused(state, jnp.float32(2.0), jnp.float32(1.0)))
        1.0
    """
    return select(was_applied(opt_state), new, old)


def _is_core(node: Any) -> bool:
    return isinstance(node, judging.Core)
