"""Several players in one loss: each gets the gradient of its own loss, measured.

A game has no function that all parameters descend. A guarded step differentiates one
loss; here its gradient in each player's parameters is that of the player's own loss,
taken beforehand. What the step measures, judges and refuses is the whole move.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

__all__ = ["LIMIT", "Move", "play"]

LIMIT = 100.0  # the gradient norm of a tensor above which the seed warns


class Move(NamedTuple):
    """What a player contributes to a step.

    Attributes:
        value: The player's loss. Its derivative in the player's parameters is the
            player's gradient, and it has none in anything else.
        metrics: What the loss reports.
        gradient_norm: Of the player's gradient; NaN where it sat out.
        warnings: Tensors whose gradient norm is above `LIMIT` or not finite.
    """

    value: Float[Array, ""]
    metrics: Any
    gradient_norm: Float[Array, ""]
    warnings: Float[Array, ""]


def play(
    loss_of: Callable[[PyTree], tuple[Array, Any]],
    mine: PyTree,
    *,
    turn: Bool[Array, ""] | None = None,
    otherwise: tuple[Array, Any] | None = None,
) -> Move:
    """Let one player take the gradient of its own loss.

    Args:
        loss_of: The player's parameters to its loss and metrics. All else that it
            closes over is held.
        mine: The player's parameters, as the step differentiates them.
        turn: Whether the player moves in this step; always by default. A player that
            sits out has a gradient of exactly zero, and costs no backward pass.
        otherwise: Loss and metrics of a player that sits out.

    Returns:
        The move.

    Raises:
        ValueError: If ``turn`` is given without ``otherwise``.
    """
    if (turn is None) != (otherwise is None):
        raise ValueError("play: turn and otherwise must be given together.")

    def moves(parameters: PyTree) -> tuple[Array, Any, PyTree, Array, Array]:
        both = jax.value_and_grad(loss_of, has_aux=True)(parameters)
        (value, metrics), gradient = both
        norm, warnings = _norms(gradient)
        return value, metrics, gradient, norm, warnings

    def sits_out(parameters: PyTree) -> tuple[Array, Any, PyTree, Array, Array]:
        value, metrics = otherwise or (jnp.float32(jnp.nan), None)
        nothing = jax.tree.map(jnp.zeros_like, parameters)
        return value, metrics, nothing, jnp.float32(jnp.nan), jnp.float32(0.0)

    held = jax.lax.stop_gradient(mine)
    move = moves(held) if turn is None else jax.lax.cond(turn, moves, sits_out, held)
    value, metrics, gradient, norm, warnings = jax.lax.stop_gradient(move)
    return Move(_with_gradient(value, mine, gradient), metrics, norm, warnings)


@jax.custom_vjp
def _with_gradient(value: Array, parameters: PyTree, gradient: PyTree) -> Array:
    """Return ``value``, whose derivative in ``parameters`` is ``gradient``."""
    del parameters, gradient
    return value


def _forward(value: Array, parameters: PyTree, gradient: PyTree) -> tuple[Array, Any]:
    del parameters
    return value, gradient


def _backward(gradient: PyTree, cotangent: Array) -> tuple[Any, PyTree, PyTree]:
    scaled = jax.tree.map(lambda g: g * cotangent.astype(g.dtype), gradient)
    return jnp.zeros_like(cotangent), scaled, jax.tree.map(jnp.zeros_like, gradient)


_with_gradient.defvjp(_forward, _backward)


def _norms(gradient: PyTree) -> tuple[Array, Array]:
    """Return the global norm, and how many tensors the seed would warn about."""
    # Plain sums, as every leaf adds to the program; an overflow is no fine norm.
    squares = [jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(gradient)]
    squares = jnp.stack(squares)
    fine = squares <= LIMIT**2  # False for NaN
    return jnp.sqrt(jnp.sum(squares)), jnp.sum(~fine, dtype=jnp.float32)
