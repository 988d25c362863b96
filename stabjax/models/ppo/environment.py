"""What an environment is: two pure functions, and many of them side by side."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Num

__all__ = [
    "Actions", "Environment", "Step", "VectorEnvironment", "VectorState",
    "VectorStep", "squash_into", "vectorize",
]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Actions:
    """What an agent may do.

    Attributes:
        kind: ``"continuous"``: a real vector of any size, which the environment
            squashes itself; ``"discrete"``: one of ``size`` choices.
        size: Length of the vector, or number of choices.
    """

    kind: Literal["continuous", "discrete"]
    size: int


def _as_it_is(action: Array) -> Array:
    return action


class Step(NamedTuple):
    """What one step of one environment gives.

    Attributes:
        observation: What is seen after the step, also where the episode ends.
        rewards: One per reward component.
        terminated: The episode is over and nothing would follow.
        truncated: It is cut off; what would follow has a value.
        success: The goal was reached in this step.
    """

    observation: Float[Array, "*batch features"]
    rewards: Float[Array, "*batch components"]
    terminated: Bool[Array, "*batch"]
    truncated: Bool[Array, "*batch"]
    success: Bool[Array, "*batch"]


@dataclasses.dataclass(frozen=True)
class Environment:
    """One environment, as pure functions of one state.

    Attributes:
        name: As in a configuration.
        features: Length of an observation.
        actions: What the agent may do.
        components: Names of the reward components.
        weights: Their weights in the total reward.
        horizon: Most steps of an episode.
        reset: ``key -> (state, observation)``.
        step: ``(key, state, action) -> (state, Step)``; it does not reset.
        bound: Action as the agent sampled it to the action that is carried out.
        tells_success: Whether ``Step.success`` is known; else no rate of it is given.
        draw: ``(axes, state) -> None`` draws a state into matplotlib axes, or None.
        caption: What the drawing shows, in words.
    """

    name: str
    features: int
    actions: Actions
    components: tuple[str, ...]
    weights: tuple[float, ...]
    horizon: int
    reset: Callable[[Any], tuple[Any, Float[Array, " features"]]]
    step: Callable[[Any, Any, Array], tuple[Any, Step]]
    bound: Callable[[Array], Array] = _as_it_is
    tells_success: bool = True
    draw: Callable[[Any, Any], None] | None = None
    caption: str = ""


class VectorState(NamedTuple):
    """Many environments and their running episodes.

    Attributes:
        inner: Their states.
        observation: What each sees now.
        total: Weighted reward of the running episode so far.
        length: Its steps so far.
    """

    inner: Any
    observation: Float[Array, "envs features"]
    total: Float[Array, " envs"]
    length: Int[Array, " envs"]


class VectorStep(NamedTuple):
    """One step of all; ``step.observation`` is from before the reset.

    Attributes:
        step: The step of each.
        total: Weighted reward of the episode so far, this step included.
        length: Its steps.
    """

    step: Step
    total: Float[Array, " envs"]
    length: Int[Array, " envs"]


class VectorEnvironment(NamedTuple):
    """Many copies of an environment that start anew by themselves.

    Attributes:
        of: The description of one of them.
        count: How many.
        reset: ``keys [count] -> VectorState``.
        step: ``(keys [2, count], VectorState, actions) -> (VectorState, VectorStep)``;
            the first row is for the step, the second for a reset after it.
        pure: Whether the state is all there is; an environment on the host keeps
            its own, which no checkpoint holds and no rollback reaches.
    """

    of: Environment
    count: int
    reset: Callable[[Any], VectorState]
    step: Callable[[Any, VectorState, Num[Array, "envs *action"]], Any]
    pure: bool = True


def squash_into(low: Any, high: Any) -> Callable[[Array], Array]:
    """Return the function that squashes real vectors into a box by tanh.

    Args:
        low: Lower ends, finite.
        high: Upper ends, finite.

    Example:
        >>> squash_into(jnp.array([-2.0]), jnp.array([2.0]))(jnp.array([[9.0]]))
        Array([[2.]], dtype=float32)
    """
    middle = jnp.asarray(0.5 * (low + high), jnp.float32).reshape(-1)
    reach = jnp.asarray(0.5 * (high - low), jnp.float32).reshape(-1)

    def bound(action: Array) -> Array:
        squashed = jnp.tanh(action)
        wide = [jnp.broadcast_to(x, squashed.shape) for x in (reach, middle)]
        return wide[0] * squashed + wide[1]

    return bound


def vectorize(
    environment: Environment, count: int, *, reward_scale: float = 1.0
) -> VectorEnvironment:
    """Return ``count`` environments side by side that reset where an episode ends.

    The step that ends an episode still reports the observation it ended with, so that
    a truncated episode can be continued by a value estimate.

    Args:
        environment: The environment.
        count: How many, >= 1.
        reward_scale: Factor on every reward.

    Returns:
        Pure functions; random numbers come from the key alone.
    """
    weights = jnp.asarray(environment.weights, jnp.float32)

    def reset(keys: Any) -> VectorState:
        inner, observation = jax.vmap(environment.reset)(keys)
        nothing = jnp.zeros((count,), jnp.float32)
        return VectorState(inner, observation, nothing, jnp.zeros((count,), jnp.int32))

    def step(
        keys: Any, state: VectorState, actions: Array
    ) -> tuple[VectorState, VectorStep]:
        inner, taken = jax.vmap(environment.step)(keys[0], state.inner, actions)
        taken = taken._replace(rewards=reward_scale * taken.rewards)
        total = state.total + taken.rewards @ weights
        length = state.length + 1
        fresh = reset(keys[1])
        over = taken.terminated | taken.truncated
        now = VectorState(inner, taken.observation, total, length)
        after = jax.tree.map(lambda new, old: _where(over, new, old), fresh, now)
        return after, VectorStep(taken, total, length)

    return VectorEnvironment(environment, count, reset, step)


def _where(condition: Bool[Array, " envs"], new: Array, old: Array) -> Array:
    shape = condition.shape + (1,) * (new.ndim - 1)
    return jnp.where(condition.reshape(shape), new, old)
