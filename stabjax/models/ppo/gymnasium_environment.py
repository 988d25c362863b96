"""Environments that are not JAX: gymnasium, on the host, through a callback.

The iteration stays one program that waits for the host at every step. The state of
such environments is not in the train state: a checkpoint does not hold it, and neither
a rollback nor a refused iteration reaches it. Whenever the two disagree, after a
resume or a rollback, all episodes are cut off and begun anew.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import io_callback
from jaxtyping import Array

from stabjax.models.ppo.environment import (
    Actions,
    Environment,
    Step,
    VectorEnvironment,
    VectorState,
    VectorStep,
    squash_into,
)

__all__ = ["gymnasium_environment"]

_SUCCESS = "is_success"  # of the information of a step


def gymnasium_environment(
    identifier: str,
    count: int,
    *,
    reward_scale: float = 1.0,
    weights: Callable[[Environment], tuple[float, ...]] | None = None,
) -> VectorEnvironment:
    """Return ``count`` environments of gymnasium that reset by themselves.

    Where the information of a step splits the reward into entries ``reward_<name>``
    that sum to it, as MuJoCo's do, each is a component; else there is the one
    component ``reward``. Continuous actions are squashed into their bounds by tanh.
    A step is a success where its information says ``is_success``, as robotics' do.

    Args:
        identifier: As in gymnasium, for example ``HalfCheetah-v5``.
        count: How many, >= 1.
        reward_scale: Factor on every reward.
        weights: Environment to the weights of its components; one each by default.

    Returns:
        Functions with a state on the host: ``pure`` is False, and they cannot be
        mapped over random seeds.

    Raises:
        ImportError: If gymnasium, or what the environment needs, is missing.
        ValueError: If it has no such environment, or an unfit space.
    """
    host = _Host(identifier, count)
    of = host.of
    if weights is not None:
        of = dataclasses.replace(of, weights=weights(of))
    totals = jnp.asarray(of.weights, jnp.float32)
    shapes = host.shapes()

    def reset(keys: Any) -> VectorState:
        seed = jax.random.bits(keys[0], (), jnp.uint32)
        seen, turn = io_callback(host.reset, (shapes[0], shapes[-1]), seed)
        nothing = jnp.zeros((count,), jnp.float32)
        return VectorState(turn, seen, nothing, jnp.zeros((count,), jnp.int32))

    def step(
        keys: Any, state: VectorState, actions: Array
    ) -> tuple[VectorState, VectorStep]:
        del keys  # the host draws for itself, seeded at the reset
        bounded = host.of.bound(actions)
        # Each call needs what the one before gave, so their order is fixed.
        seen, ended_at, rewards, terminated, truncated, success, turn = io_callback(
            host.step, shapes, state.inner, state.observation, bounded
        )
        rewards = reward_scale * rewards
        total = state.total + rewards @ totals
        length = state.length + 1
        over = terminated | truncated
        taken = Step(ended_at, rewards, terminated, truncated, success)
        after = VectorState(
            turn, seen, jnp.where(over, 0.0, total), jnp.where(over, 0, length)
        )
        return after, VectorStep(taken, total, length)

    return VectorEnvironment(of, count, reset, step, pure=False)


class _Host:
    """The environments themselves; only its two callbacks touch them."""

    def __init__(self, identifier: str, count: int):
        try:
            gymnasium: Any = importlib.import_module("gymnasium")
        except ImportError as error:
            raise ImportError(
                "ppo: environment gymnasium:<id> needs gymnasium: "
                "pip install 'stabjax[envs]'"
            ) from error
        try:
            self._all = [gymnasium.make(identifier) for _ in range(count)]
        except gymnasium.error.UnregisteredEnv as error:
            raise ValueError(f"gymnasium_environment: {error}") from error
        self._turn = -1  # of no state
        self.of = self._describe(identifier, gymnasium)

    def shapes(self) -> tuple[jax.ShapeDtypeStruct, ...]:
        """Return the shapes of what `step` gives."""
        count = len(self._all)
        seen = jax.ShapeDtypeStruct((count, self.of.features), jnp.float32)
        rewards = jax.ShapeDtypeStruct((count, len(self.of.components)), jnp.float32)
        flags = jax.ShapeDtypeStruct((count,), jnp.bool_)
        turn = jax.ShapeDtypeStruct((), jnp.int32)
        return seen, seen, rewards, flags, flags, flags, turn

    def reset(self, seed: Any) -> tuple[np.ndarray, np.int32]:
        """Begin all episodes."""
        first = int(seed) % 2**31
        seen = [
            env.reset(seed=(first + index) % 2**31)[0]
            for index, env in enumerate(self._all)
        ]
        return self._stacked(seen), self._next()

    def step(self, turn: Any, before: Any, actions: Any) -> tuple[Any, ...]:
        """Step every environment; begin anew where an episode ended."""
        if int(turn) != self._turn:
            return self._cut_off(np.asarray(before))
        rows = [
            self._one(env, action)
            for env, action in zip(self._all, np.asarray(actions), strict=True)
        ]
        seen, ended_at, rewards, *flags = zip(*rows, strict=True)
        return (
            self._stacked(seen),
            self._stacked(ended_at),
            np.asarray(rewards, np.float32),
            *(np.asarray(flag, np.bool_) for flag in flags),
            self._next(),
        )

    def _one(self, env: Any, action: Any) -> tuple[Any, ...]:
        if self.of.actions.kind == "continuous":
            action = action.reshape(env.action_space.shape)
        seen, reward, terminated, truncated, info = env.step(action)
        parts = self._parts(float(reward), info)
        over = bool(terminated or truncated)
        now = env.reset()[0] if over else seen
        cut = bool(truncated and not terminated)
        return now, seen, parts, bool(terminated), cut, _succeeded(info)

    def _cut_off(self, before: np.ndarray) -> tuple[Any, ...]:
        """Answer a state that is not the host's: its episodes end where they were."""
        seen = self._stacked([env.reset()[0] for env in self._all])
        count = len(self._all)
        nothing = np.zeros((count, len(self.of.components)), np.float32)
        never, always = np.zeros(count, np.bool_), np.ones(count, np.bool_)
        return seen, before, nothing, never, always, never, self._next()

    def _next(self) -> np.int32:
        self._turn = (self._turn + 1) % 2**31
        return np.int32(self._turn)

    def _stacked(self, seen: Any) -> np.ndarray:
        return np.stack([np.asarray(x, np.float32).reshape(-1) for x in seen])

    def _parts(self, reward: float, info: dict[str, Any]) -> list[float]:
        if self.of.components == ("reward",):
            return [reward]
        return [float(info[f"reward_{name}"]) for name in self.of.components]

    def _describe(self, identifier: str, gymnasium: Any) -> Environment:
        probe = gymnasium.make(identifier)
        _check_observations(identifier, probe.observation_space, gymnasium.spaces)
        seen, _ = probe.reset(seed=0)
        actions, bound = _actions(identifier, probe.action_space)
        probe.action_space.seed(0)
        _, reward, _, _, info = probe.step(probe.action_space.sample())
        components = _components(float(reward), info)
        horizon = (probe.spec.max_episode_steps if probe.spec else None) or 1000
        tells_success = _SUCCESS in info or _says_it_at_the_end(probe, horizon)
        probe.close()
        return Environment(
            name=f"gymnasium:{identifier}",
            features=int(np.size(seen)),
            actions=actions,
            components=components,
            weights=(1.0,) * len(components),
            horizon=horizon,
            reset=_not_in_jax,
            step=_not_in_jax,
            bound=bound,
            tells_success=tells_success,
        )


def _check_observations(identifier: str, space: Any, spaces: Any) -> None:
    plain = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)
    if not isinstance(space, plain):
        raise ValueError(
            f"gymnasium_environment: observations of {identifier} must be one array, "
            f"got {space}; register it with gymnasium.wrappers.FlattenObservation "
            f"around it."
        )


def _succeeded(info: dict[str, Any]) -> bool:
    return bool(info.get(_SUCCESS, False))


def _says_it_at_the_end(probe: Any, horizon: int) -> bool:
    """Play a random episode; return whether any step says if it is a success."""
    probe.reset(seed=0)
    for _ in range(horizon):
        _, _, terminated, truncated, info = probe.step(probe.action_space.sample())
        if _SUCCESS in info or terminated or truncated:
            return _SUCCESS in info
    return False


def _actions(identifier: str, space: Any) -> tuple[Actions, Any]:
    if hasattr(space, "n") and np.ndim(space.n) == 0:
        return Actions("discrete", int(space.n)), lambda action: action
    low, high = getattr(space, "low", np.inf), getattr(space, "high", np.inf)
    if not (np.all(np.isfinite(low)) and np.all(np.isfinite(high))):
        raise ValueError(
            f"gymnasium_environment: actions of {identifier} must be one choice or a "
            f"bounded vector, got {space}."
        )
    return Actions("continuous", int(np.size(low))), squash_into(low, high)


def _components(reward: float, info: dict[str, Any]) -> tuple[str, ...]:
    parts = {
        name.removeprefix("reward_"): float(value)
        for name, value in info.items()
        if name.startswith("reward_") and np.ndim(value) == 0
    }
    adds_up = parts and np.isclose(sum(parts.values()), reward, rtol=1e-4, atol=1e-6)
    return tuple(sorted(parts)) if adds_up else ("reward",)


def _not_in_jax(*arguments: Any) -> Any:
    raise NotImplementedError(
        "gymnasium_environment: one environment by itself is not a JAX function."
    )
