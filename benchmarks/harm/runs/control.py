"""A point on a line, pushed towards zero: the environment of PPO and SAC."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

HORIZON = 32
OBSERVED, ACTIONS = 2, 1


class Point(NamedTuple):
    """Places and speeds of many points, (points, 2), and the steps they took."""

    state: jax.Array
    steps: jax.Array


def reset(key: jax.Array, points: int) -> Point:
    """Return points at random places, at rest."""
    place = jax.random.uniform(key, (points, 1), minval=-1.5, maxval=1.5)
    state = jnp.concatenate([place, jnp.zeros_like(place)], axis=1)
    return Point(state, jnp.zeros((), jnp.int32))


def push(point: Point, action: jax.Array) -> tuple[Point, jax.Array]:
    """Return the points 0.2 time units later, and their rewards, at most 0.

    There are walls at -3 and 3.

    Args:
        point: The points.
        action: Their accelerations, (points, 1); beyond -1 and 1 they are cut.
    """
    action = jnp.clip(action, -1.0, 1.0)
    speed = 0.95 * point.state[:, 1:] + 0.4 * action
    place = jnp.clip(point.state[:, :1] + 0.2 * speed, -3.0, 3.0)
    reward = -(place**2 + 0.1 * speed**2 + 0.01 * action**2)[:, 0]
    return Point(jnp.concatenate([place, speed], axis=1), point.steps + 1), reward


def mean_cost(policy: Callable[[jax.Array], jax.Array], key: jax.Array) -> jax.Array:
    """Return minus the mean reward of a policy over 64 episodes."""
    start = reset(key, 64)

    def step(point: Point, _: None) -> tuple[Point, jax.Array]:
        return push(point, policy(point.state))

    _, rewards = jax.lax.scan(step, start, None, length=HORIZON)
    return -jnp.mean(rewards)
