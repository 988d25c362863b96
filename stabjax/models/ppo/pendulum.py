"""Swing a pendulum up and hold it: three cost components, every return negative."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.models.ppo.environment import Actions, Environment, Step

__all__ = ["pendulum"]

_HORIZON = 200  # steps of 0.05 s
_TORQUE = 2.0  # [N m]
_SPEED = 8.0  # [rad/s]
_STEP = 0.05  # [s]
_UPRIGHT = math.cos(0.2)  # what counts as held [cos of rad]


class PendulumState(NamedTuple):
    """Angle from upright [rad], angular velocity [rad/s], steps done."""

    angle: Float[Array, ""]
    velocity: Float[Array, ""]
    time: Int[Array, ""]


def pendulum() -> Environment:
    """Return the pendulum of the control literature, rewards split in three.

    ``cost = angle**2 + 0.1 velocity**2 + 0.001 torque**2`` per step of 0.05 s, for
    200 steps; mass and length 1, gravity 10 m/s^2. The torque is ``2 tanh(action)``.
    An episode succeeds if it ends within 0.2 rad of upright.

    Source:
        The equations of Pendulum-v1 of gymnasium, which clips the torque instead.

    Example:
        >>> pendulum().components
        ('angle', 'velocity', 'torque')
    """
    return Environment(
        name="pendulum",
        features=3,
        actions=Actions("continuous", 1),
        components=("angle", "velocity", "torque"),
        weights=(1.0, 1.0, 1.0),
        horizon=_HORIZON,
        reset=_reset,
        step=_step,
        bound=_bound,
        draw=_draw,
        caption="a pendulum, upright is the goal",
    )


def _reset(key: Any) -> tuple[PendulumState, Array]:
    drawn = jax.random.uniform(key, (2,), jnp.float32, -1.0, 1.0)
    state = PendulumState(jnp.pi * drawn[0], drawn[1], jnp.zeros((), jnp.int32))
    return state, _observation(state)


def _bound(action: Array) -> Array:
    return _TORQUE * jnp.tanh(action)


def _step(key: Any, state: PendulumState, action: Array) -> tuple[PendulumState, Step]:
    del key  # nothing here is random but the start
    torque = _bound(action)[0]
    angle, velocity = state.angle, state.velocity
    wrapped = jnp.mod(angle + jnp.pi, 2.0 * jnp.pi) - jnp.pi
    rewards = -jnp.stack([wrapped**2, 0.1 * velocity**2, 0.001 * torque**2])
    velocity = velocity + (15.0 * jnp.sin(angle) + 3.0 * torque) * _STEP
    velocity = jnp.clip(velocity, -_SPEED, _SPEED)
    after = PendulumState(angle + velocity * _STEP, velocity, state.time + 1)
    truncated = after.time >= _HORIZON
    return after, Step(
        observation=_observation(after),
        rewards=rewards,
        terminated=jnp.zeros((), jnp.bool_),
        truncated=truncated,
        success=truncated & (jnp.cos(after.angle) > _UPRIGHT),
    )


def _observation(state: PendulumState) -> Array:
    return jnp.stack([jnp.cos(state.angle), jnp.sin(state.angle), state.velocity])


def _draw(axes: Any, state: PendulumState) -> None:
    from stabjax.models.drawing import INK, MUTED, SERIES

    x, y = math.sin(float(state.angle)), math.cos(float(state.angle))
    axes.plot([0.0, x], [0.0, y], color=SERIES[0], linewidth=5, solid_capstyle="round")
    axes.plot([0.0], [0.0], "o", color=INK, markersize=5)
    axes.plot([0.0], [1.15], "v", color=MUTED, markersize=5)
    axes.set_xlim(-1.3, 1.3)
    axes.set_ylim(-1.3, 1.3)
    axes.set_aspect("equal")
