"""Balance a pole on a cart: one reward component, the check that all is well."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.models.ppo.environment import Actions, Environment, Step

__all__ = ["cartpole"]

_HORIZON = 500
_FORCE, _STEP = 10.0, 0.02  # [N], [s]
_HALF_POLE, _POLE, _CART, _GRAVITY = 0.5, 0.1, 1.0, 9.8  # [m], [kg], [kg], [m/s^2]
_ANGLE, _TRACK = 12.0 * math.pi / 180.0, 2.4  # [rad], [m]


class CartPoleState(NamedTuple):
    """Place [m], velocity [m/s], angle [rad], angular velocity [rad/s], steps done."""

    body: Float[Array, "4"]
    time: Int[Array, ""]


def cartpole() -> Environment:
    """Return the cart and pole of Barto, Sutton & Anderson, reward one per step.

    It ends when the pole leans more than 12 degrees or the cart leaves 2.4 m, and is
    cut off after 500 steps, which is a success.

    Source:
        The equations of CartPole-v1 of gymnasium.

    Example:
        >>> cartpole().actions
        Actions(kind='discrete', size=2)
    """
    return Environment(
        name="cartpole",
        features=4,
        actions=Actions("discrete", 2),
        components=("upright",),
        weights=(1.0,),
        horizon=_HORIZON,
        reset=_reset,
        step=_step,
        draw=_draw,
        caption="a pole on a cart",
    )


def _reset(key: Any) -> tuple[CartPoleState, Array]:
    body = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
    return CartPoleState(body, jnp.zeros((), jnp.int32)), body


def _step(key: Any, state: CartPoleState, action: Array) -> tuple[CartPoleState, Step]:
    del key
    place, velocity, angle, turning = state.body
    force = jnp.where(action == 1, _FORCE, -_FORCE)
    sine, cosine = jnp.sin(angle), jnp.cos(angle)
    mass = _CART + _POLE
    pull = (force + _POLE * _HALF_POLE * turning**2 * sine) / mass
    inertia = _HALF_POLE * (4.0 / 3.0 - _POLE * cosine**2 / mass)
    turn = (_GRAVITY * sine - cosine * pull) / inertia
    push = pull - _POLE * _HALF_POLE * turn * cosine / mass
    body = jnp.stack(
        [
            place + _STEP * velocity,
            velocity + _STEP * push,
            angle + _STEP * turning,
            turning + _STEP * turn,
        ]
    )
    fallen = ~((jnp.abs(body[0]) <= _TRACK) & (jnp.abs(body[2]) <= _ANGLE))
    after = CartPoleState(body, state.time + 1)
    truncated = (after.time >= _HORIZON) & ~fallen
    return after, Step(
        observation=body,
        rewards=jnp.ones((1,), jnp.float32),
        terminated=fallen,
        truncated=truncated,
        success=truncated,
    )


def _draw(axes: Any, state: CartPoleState) -> None:
    from stabjax.models.drawing import INK, RULE, SERIES

    place, angle = float(state.body[0]), float(state.body[2])
    tip = place + 2 * _HALF_POLE * math.sin(angle), 2 * _HALF_POLE * math.cos(angle)
    axes.axhline(0.0, color=RULE)
    axes.plot([place - 0.25, place + 0.25], [0.0, 0.0], color=INK, linewidth=8)
    axes.plot([place, tip[0]], [0.05, tip[1]], color=SERIES[0], linewidth=4)
    axes.set_xlim(-_TRACK, _TRACK)
    axes.set_ylim(-0.3, 1.3)
    axes.set_aspect("equal")
