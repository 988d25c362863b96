"""Every switch that is set must change what is compiled.

The original read its configuration, printed that its fixes were on, and computed the
same loss as before: one sat in a function that nothing called, two were never read. So
a switch is flipped here, and the lowered program compared. What no output depends on is
gone from it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import (
    Environment,
    Step,
    VectorEnvironment,
    VectorState,
    VectorStep,
)
from stabjax.models.ppo.objective import Minibatch
from stabjax.models.ppo.rollout import Experience

__all__ = ["check_live", "dead_switches"]

Describe = Callable[[Config], str]

# Switch to a setting it must differ from in effect.
_OTHERWISE: dict[str, Callable[[Config], Any]] = {
    "enable_value_clipping": lambda c: not c.enable_value_clipping,
    "use_relative_value_clip": lambda c: not c.use_relative_value_clip,
    "relative_value_clip": lambda c: (
        "sound" if c.relative_value_clip == "seed" else "seed"
    ),
    "value_clip_epsilon": lambda c: 2.0 * c.value_clip_epsilon,
    "normalize_returns": lambda c: not c.normalize_returns,
    "return_normalization": lambda c: (
        "running" if c.return_normalization == "seed" else "seed"
    ),
    "normalization_decay": lambda c: 0.5 * c.normalization_decay + 0.25,
    "return_scale": lambda c: 2.0 * c.return_scale,
    "value_loss_weight": lambda c: 2.0 * c.value_loss_weight,
    "entropy_coef": lambda c: 2.0 * c.entropy_coef + 1.0,
    "entropy_bonus": lambda c: 2.0 * c.entropy_bonus + 1.0,
    "advantages": lambda c: (
        "component_standardized" if c.advantages == "sum" else "sum"
    ),
    "stored_actions": lambda c: "seed" if c.stored_actions == "sampled" else "sampled",
    "shared_encoder": lambda c: not c.shared_encoder,
    "max_grad_norm": lambda c: 2.0 * (c.max_grad_norm or 1.0),
    "target_kl": lambda c: 2.0 * (c.target_kl or 1.0),
}
# These act on the update; the others must already show in loss or gradient.
_OF_THE_UPDATE = ("max_grad_norm", "target_kl")


def check_live(config: Config, vector: VectorEnvironment) -> None:
    """Raise unless every switch that is set changes the compiled loss or update.

    Raises:
        ValueError: Names the first switch that does nothing, and its value.
    """
    for name in dead_switches(config.model_dump_json(), vector.of):
        value = getattr(config, name)
        raise ValueError(
            f"ppo: {name} must change the compiled update, got {value!r}, which "
            f"changes nothing beside the other settings."
        )


@functools.lru_cache(maxsize=64)
def dead_switches(document: str, environment: Environment) -> tuple[str, ...]:
    """Return the switches that are set and do nothing, of a configuration as JSON.

    Set is what differs from its default, and every boolean that is true.
    """
    config = Config.model_validate_json(document)
    small = config.model_copy(
        update={"num_envs": 2, "rollout_steps": 4, "num_minibatches": 2}
        | {"update_epochs": 1, "trunk_gradients": False, "mode": "train"}
    )
    dead = []
    programs: dict[Any, str] = {}
    for name, otherwise in _OTHERWISE.items():
        if not _is_set(config, name):
            continue
        describe = _update if name in _OF_THE_UPDATE else _loss
        if describe not in programs:
            programs[describe] = describe(small, environment)
        flipped = small.model_copy(update={name: otherwise(small)})
        if describe(flipped, environment) == programs[describe]:
            dead.append(name)
    return tuple(dead)


def _is_set(config: Config, name: str) -> bool:
    value = getattr(config, name)
    return value is True or value != Config.model_fields[name].default


def _loss(config: Config, environment: Environment) -> str:
    """Return the lowered loss and gradient of a minibatch, targets included."""
    iteration, params, before, experience = _pieces(config, environment)

    def compute(params: Any, before: Any, experience: Any) -> Any:
        def loss(params: Any) -> Any:
            held = jax.lax.stop_gradient(params)
            ready = iteration.prepare(held, before, before.environments, experience)
            batch = Minibatch(ready.rows, ready.shared, jnp.ones((), jnp.bool_))
            key = jax.random.key(0)
            return iteration.prepare.loss(params, batch, key, model_state=before)[0]

        return jax.value_and_grad(loss)(params)

    return jax.jit(compute).lower(params, before, experience).as_text()


def _update(config: Config, environment: Environment) -> str:
    """Return the lowered parameters after all updates of an iteration."""
    iteration, params, before, experience = _pieces(config, environment)
    init = lambda params, before: iteration.init(params, None, model_state=before)
    state = jax.eval_shape(init, params, before)

    def compute(state: Any, experience: Any) -> Any:
        before = state.model_state
        ready = iteration.prepare(state.params, before, before.environments, experience)
        key, number = jax.random.key(0), jnp.zeros((), jnp.int32)
        return iteration.learn(state, ready, key, number)[0].params

    return jax.jit(compute).lower(state, experience).as_text()


def _pieces(config: Config, environment: Environment) -> tuple[Any, Any, Any, Any]:
    """Return an iteration, and the shapes of parameters, model state, experience."""
    from stabjax.models.ppo.build import assemble

    vector = _still(environment, config.num_envs)
    iteration, build = assemble(
        config, vector, optimizer=optax.adam(1e-3), guards=(), window=1
    )
    key = jax.random.key(0)
    params = jax.eval_shape(build, key)
    before = jax.eval_shape(iteration.draw_model_state, params, key)
    return iteration, params, before, _experience_shapes(config, environment)


def _still(environment: Environment, count: int) -> VectorEnvironment:
    """Return environments that are never acted in, at no cost of tracing."""

    def reset(keys: Any) -> VectorState:
        del keys
        return VectorState(
            inner=(),
            observation=jnp.zeros((count, environment.features), jnp.float32),
            total=jnp.zeros((count,), jnp.float32),
            length=jnp.zeros((count,), jnp.int32),
        )

    def step(keys: Any, state: VectorState, actions: Any) -> Any:
        del keys, actions
        nothing = jnp.zeros((count,), jnp.bool_)
        rewards = jnp.zeros((count, len(environment.components)), jnp.float32)
        taken = Step(state.observation, rewards, nothing, nothing, nothing)
        return state, VectorStep(taken, state.total, state.length)

    return VectorEnvironment(environment, count, reset, step)


def _experience_shapes(config: Config, environment: Environment) -> Experience:
    steps, count = config.rollout_steps, config.num_envs
    sizes = (steps, count)

    def real(*shape: int) -> Any:  # stands for an array, which pyright would not see
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    flag: Any = jax.ShapeDtypeStruct(sizes, jnp.bool_)
    whole: Any = jax.ShapeDtypeStruct(sizes, jnp.int32)
    discrete = environment.actions.kind == "discrete"
    step = Step(
        observation=real(*sizes, environment.features),
        rewards=real(*sizes, len(environment.components)),
        terminated=flag,
        truncated=flag,
        success=flag,
    )
    return Experience(
        observation=real(steps + 1, count, environment.features),
        action=whole if discrete else real(*sizes, environment.actions.size),
        taken=VectorStep(step, real(*sizes), whole),
    )
