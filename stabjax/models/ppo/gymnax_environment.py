"""Environments of gymnax, MinAtar among them, through the extra ``envs``."""

import importlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from stabjax.models.ppo.environment import Actions, Environment, Step, squash_into

__all__ = ["gymnax_environment"]


def gymnax_environment(identifier: str) -> Environment:
    """Return an environment of gymnax 1.0 or later, its observation flattened.

    There is one reward component, ``reward``, and no success. A continuous action is
    squashed into its bounds by tanh.

    Args:
        identifier: As in gymnax, for example ``Breakout-MinAtar``.

    Raises:
        ImportError: If gymnax is missing.
        ValueError: If it has no such environment, or one whose actions are neither
            one choice nor a bounded vector.
    """
    try:
        gymnax: Any = importlib.import_module("gymnax")
    except ImportError as error:
        raise ImportError(
            f"ppo: environment gymnax:<id> needs gymnax, which cannot be imported "
            f"({error}): pip install 'stabjax[envs]'"
        ) from error
    if identifier not in gymnax.registered_envs:
        raise ValueError(
            f"gymnax_environment: identifier must be one of "
            f"{sorted(gymnax.registered_envs)}, got {identifier!r}."
        )
    inner, params = gymnax.make(identifier)
    space = inner.action_space(params)
    actions, bound = _actions(identifier, space)
    shape = () if actions.kind == "discrete" else space.shape or (1,)

    def reset(key: Any) -> tuple[Any, Array]:
        seen, state = inner.reset_env(key, params)
        return state, _flat(seen)

    def step(key: Any, state: Any, action: Array) -> tuple[Any, Step]:
        seen, state, reward, terminated, _ = inner.step_env(
            key, state, bound(action).reshape(shape), params
        )
        truncated = inner.is_truncated(state, params)
        return state, Step(
            observation=_flat(seen),
            rewards=jnp.asarray(reward, jnp.float32).reshape(1),
            terminated=jnp.asarray(terminated, jnp.bool_),
            truncated=jnp.asarray(truncated, jnp.bool_),
            success=jnp.zeros((), jnp.bool_),
        )

    return Environment(
        name=f"gymnax:{identifier}",
        features=int(np.prod(inner.observation_space(params).shape)),
        actions=actions,
        components=("reward",),
        weights=(1.0,),
        horizon=int(params.max_steps_in_episode),
        reset=reset,
        step=step,
        bound=bound,
        tells_success=False,
    )


def _actions(identifier: str, space: Any) -> tuple[Actions, Any]:
    if hasattr(space, "n"):
        return Actions("discrete", int(space.n)), lambda action: action
    low, high = (np.asarray(end, np.float32) for end in (space.low, space.high))
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ValueError(
            f"gymnax_environment: actions of {identifier} must be bounded, got "
            f"[{low}, {high}]."
        )
    size = int(np.prod(space.shape or (1,)))
    low, high = (np.broadcast_to(end.reshape(-1), (size,)) for end in (low, high))
    return Actions("continuous", size), squash_into(low, high)


def _flat(seen: Any) -> Array:
    leaves = [jnp.asarray(x, jnp.float32).reshape(-1) for x in jax.tree.leaves(seen)]
    return jnp.concatenate(leaves)
