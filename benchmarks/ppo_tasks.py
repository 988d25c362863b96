"""The tasks on which PPO loops are compared, and the loops for each."""

from typing import Any

import optax
from ppo_plain import Plain, Settings

from stabjax.guards import skip_nonfinite, skip_spikes, update_ratio_band, zclip
from stabjax.models.ppo import Config
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.environments import make_environment

# Sizes and learning rate of each task: purejaxrl's own on CartPole.
TASKS: dict[str, dict[str, Any]] = {
    "cartpole": {
        "envs": 4,
        "steps": 128,
        "minibatches": 4,
        "rate": 2.5e-4,
        "entropy": 0.01,
        "iterations": 400,
    },
    "pendulum": {
        "envs": 32,
        "steps": 128,
        "minibatches": 8,
        "rate": 1e-3,
        "entropy": 0.0,
        "iterations": 80,
    },
    "gymnax:Breakout-MinAtar": {
        "envs": 64,
        "steps": 128,
        "minibatches": 8,
        "rate": 1e-3,
        "entropy": 0.01,
        "iterations": 120,
    },
}
EPOCHS = 4


def config_of(task: str, **changes: Any) -> Config:
    sizes = TASKS[task]
    settings = {
        "environment": task,
        "num_envs": sizes["envs"],
        "rollout_steps": sizes["steps"],
        "update_epochs": EPOCHS,
        "num_minibatches": sizes["minibatches"],
        "entropy_coef": sizes["entropy"],
    }
    return Config(**(settings | changes))


def all_guards() -> tuple[Any, ...]:
    """Return what a careful user switches on, beside the clip of the configuration."""
    return (skip_nonfinite(), skip_spikes(), zclip(), update_ratio_band(high=1.0))


def ours(task: str, guards: Any, **changes: Any) -> tuple[Any, Any]:
    """Return an iteration and the function that draws its parameters."""
    config = config_of(task, **changes)
    optimizer = optax.adam(TASKS[task]["rate"], eps=1e-5)
    vector = make_environment(config)
    return assemble(config, vector, optimizer=optimizer, guards=guards, window=8)


def plain(task: str) -> Plain:
    sizes = TASKS[task]
    settings = Settings(
        num_envs=sizes["envs"],
        num_steps=sizes["steps"],
        epochs=EPOCHS,
        minibatches=sizes["minibatches"],
        rate=sizes["rate"],
        entropy=sizes["entropy"],
    )
    return Plain(make_environment(config_of(task)), settings)


def rejax_of(task: str) -> Any:
    """Return rejax's PPO on our environment, or None without rejax."""
    try:
        import rejax
        from ppo_rejax import Borrowed
    except ImportError:
        return None
    sizes = TASKS[task]
    environment = Borrowed(make_environment(config_of(task)).of)
    return rejax.PPO.create(
        env=environment,
        env_params=environment.default_params,
        agent_kwargs={"activation": "tanh", "hidden_layer_sizes": (64, 64)},
        num_envs=sizes["envs"],
        num_steps=sizes["steps"],
        num_epochs=EPOCHS,
        num_minibatches=sizes["minibatches"],
        learning_rate=sizes["rate"],
        ent_coef=sizes["entropy"],
        max_grad_norm=0.5,
        gamma=0.99,
        gae_lambda=0.95,
        skip_initial_evaluation=True,
    )
