"""What an iteration sees: experience from the environments, then the critic's view."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from stabjax.models.ppo import policy
from stabjax.models.ppo.environment import VectorEnvironment, VectorState, VectorStep
from stabjax.models.ppo.network import Answer

__all__ = ["Experience", "View", "interact", "view"]

Apply = Callable[[Any, Array], Answer]


class Experience(NamedTuple):
    """What happened, whatever a network thinks of it.

    Attributes:
        observation: What was seen before each step, and after the last.
        action: The action as sampled.
        taken: What the environments gave.
    """

    observation: Float[Array, "steps_and_one envs features"]
    action: Num[Array, "steps envs *action"]
    taken: VectorStep


class View(NamedTuple):
    """What a network says about an experience.

    Attributes:
        log_prob: Log-density of the actions [nat].
        heads: Outputs of the value heads at the observations.
        next_heads: The same where each step led to, before any reset.
    """

    log_prob: Float[Array, "steps envs"]
    heads: Float[Array, "steps envs outputs"]
    next_heads: Float[Array, "steps envs outputs"]


def interact(
    environment: VectorEnvironment,
    apply: Apply,
    params: Any,
    state: VectorState,
    key: Any,
    steps: int,
) -> tuple[VectorState, Experience]:
    """Act for ``steps`` steps in every environment.

    Args:
        environment: The environments.
        apply: ``(parameters, observations) -> Answer``.
        params: Parameters of the policy.
        state: Where the environments are.
        key: Draws the actions and whatever is random in the environments.
        steps: Steps of each.

    Returns:
        Where they are then, and what happened.
    """
    actions = environment.of.actions
    key_noise, key_steps = jax.random.split(key)
    # Drawn for all steps at once: a generator inside the loop costs more than a
    # small network.
    noise = policy.draw_noise(actions, key_noise, (steps, environment.count))
    keys = jax.random.split(key_steps, (steps, 2, environment.count))

    def act(state: VectorState, drawn: tuple[Any, Array]) -> tuple[VectorState, Any]:
        keys, noise = drawn
        seen = state.observation
        action = policy.sample(actions, apply(params, seen), noise)
        state, taken = environment.step(keys, state, action)
        return state, (seen, action, taken)

    after, (seen, action, taken) = jax.lax.scan(act, state, (keys, noise))
    seen = jnp.concatenate([seen, after.observation[None]])
    return after, Experience(seen, action, taken)


def view(
    environment: VectorEnvironment, apply: Apply, params: Any, experience: Experience
) -> View:
    """Return what the network says about an experience, in two batched passes.

    A state before a reset is looked at by itself only if some episode was cut off:
    after a termination its value counts as zero, and elsewhere it is the next
    observation.
    """
    answer = apply(params, experience.observation)
    now = jax.tree.map(lambda x: x[:-1], answer._replace(log_std=()))
    scored = now._replace(log_std=answer.log_std)
    step = experience.taken.step
    cut = step.truncated & ~step.terminated

    def ends() -> Array:
        final = apply(params, step.observation).values
        return jnp.where(cut[..., None], final, answer.values[1:])

    on_cpu = jax.default_backend() == "cpu"
    return View(
        log_prob=policy.log_density(environment.of.actions, scored, experience.action),
        heads=now.values,
        # Elsewhere a branch would stop the host; there both are cheap.
        next_heads=jax.lax.cond(jnp.any(cut), ends, lambda: answer.values[1:])
        if on_cpu
        else ends(),
    )
