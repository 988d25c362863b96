"""One of our environments as rejax takes it: the interface of gymnax before 1.0."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from gymnax.environments import spaces

from stabjax.models.ppo.environment import Environment


@struct.dataclass
class Params:
    """Parameters of an environment, of which there are none but the horizon."""

    max_steps_in_episode: int = 500


class Borrowed:
    """Reset and step with a sum of rewards and one flag for the end of an episode."""

    def __init__(self, environment: Environment):
        self.of = environment
        self.name = environment.name

    @property
    def default_params(self) -> Params:
        """Return the parameters, which hold the horizon."""
        return Params(max_steps_in_episode=self.of.horizon)

    def observation_space(self, params: Any) -> spaces.Box:
        """Return the space of observations."""
        return spaces.Box(-np.inf, np.inf, (self.of.features,), jnp.float32)

    def action_space(self, params: Any) -> Any:
        """Return the space of actions."""
        actions = self.of.actions
        if actions.kind == "discrete":
            return spaces.Discrete(actions.size)
        # Our environments squash by themselves; wide enough never to be clipped.
        return spaces.Box(-1e3, 1e3, (actions.size,), jnp.float32)

    def reset(self, key: Any, params: Any) -> tuple[Any, Any]:
        """Begin an episode."""
        state, observation = self.of.reset(key)
        return observation, state

    def step(self, key: Any, state: Any, action: Any, params: Any) -> tuple[Any, ...]:
        """Step, and begin anew where the episode ended."""
        key_step, key_reset = jax.random.split(key)
        if self.of.actions.kind == "continuous":  # rejax drops an axis of length one
            action = action.reshape(self.of.actions.size)
        after, step = self.of.step(key_step, state, action)
        fresh, first = self.of.reset(key_reset)
        done = step.terminated | step.truncated
        after = jax.tree.map(lambda a, b: jnp.where(done, a, b), fresh, after)
        seen = jnp.where(done, first, step.observation)
        reward = step.rewards @ jnp.asarray(self.of.weights, jnp.float32)
        return seen, after, reward, done, {}
