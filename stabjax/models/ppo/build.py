"""From a configuration to a task the runner can train."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from stabjax.core.haste import jit_once
from stabjax.guards import clip_by_global_norm
from stabjax.models.modules import initial_parameters
from stabjax.models.ppo.artifacts import artifacts, follow
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.environment import VectorEnvironment
from stabjax.models.ppo.environments import make_environment
from stabjax.models.ppo.evaluation import make_evaluation
from stabjax.models.ppo.iteration import Iteration
from stabjax.models.ppo.live import check_live
from stabjax.models.ppo.network import ActorCritic, applied, describe
from stabjax.models.ppo.objective import make_loss
from stabjax.models.ppo.preparation import Preparation
from stabjax.models.ppo.values import value_unit
from stabjax.models.task import Task
from stabjax.train_step import SnapshotMemory, make_train_step

__all__ = ["assemble", "build"]

Parameters = Callable[[Any], Any]


def build(
    config: Config,
    *,
    optimizer: Any,
    guards: Sequence[Any] | None,
    window: int,
    seed: int,
    snapshot_every: int | None = None,
    snapshot_memory: SnapshotMemory = "device",
) -> Task:
    """Build the task, whose step is one iteration: a rollout and all its updates.

    Args:
        config: The model's configuration.
        optimizer: An optax transformation.
        guards: Guards of every minibatch update, beside the bound of
            ``config.max_grad_norm``; None for plain, unguarded updates.
        window: Rows of telemetry kept on the device [iterations].
        seed: Draws the episodes of an evaluation; all else comes from the keys.
        snapshot_every: Applied updates between good states kept for a rollback.
        snapshot_memory: Where they lie, see `stabjax.train_step.make_train_step`.

    Raises:
        ImportError: If the environment needs a package that is not installed.
        ValueError: If there is no such environment or reward component, or if a
            switch that is set changes nothing in the compiled update.
    """
    vector = make_environment(config)
    check_live(config, vector)
    iteration, draw = assemble(
        config,
        vector,
        optimizer=optimizer,
        guards=guards,
        window=window,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )
    train = iteration.train_step()
    evaluate = make_evaluation(config, vector, iteration.apply, seed)

    def init(key: Any) -> Any:
        key_params, key_state = jax.random.split(key)
        params = draw(key_params)
        state = iteration.first_model_state(params, key_state)
        return train.init(params, None, model_state=state)

    return Task(
        train=train,
        init=init,
        batch_at=lambda position: {},  # the environments are the data
        evaluate=evaluate,
        artifacts=functools.partial(artifacts, config, vector, iteration.apply),
        follow=functools.partial(follow, config, vector.of),
    )


def assemble(
    config: Config,
    vector: VectorEnvironment,
    *,
    optimizer: Any,
    guards: Sequence[Any] | None,
    window: int,
    snapshot_every: int | None = None,
    snapshot_memory: SnapshotMemory = "device",
    form: Any = None,
) -> tuple[Iteration, Parameters]:
    """Return the iteration, and the function from a key to first parameters.

    Args:
        config: The model's configuration.
        vector: Its environments.
        optimizer: An optax transformation.
        guards: As for `build`.
        window: As for `build`.
        snapshot_every: As for `build`.
        snapshot_memory: As for `build`.
        form: As for `stabjax.train_step.make_train_step`; ``"select"`` suits an
            iteration that is mapped over random seeds.
    """
    bound = config.max_grad_norm
    if bound is not None and guards is None:
        optimizer = optax.chain(optax.clip_by_global_norm(bound), optimizer)
    elif bound is not None:
        guards = (clip_by_global_norm(max_norm=bound), *(guards or ()))
    unit = value_unit(config, len(vector.of.components))
    network = describe(
        vector.of,
        unit.outputs,
        config.hidden,
        shared=config.shared_encoder,
        value_gain=unit.gain,
    )
    apply = applied(network)
    loss = make_loss(config, vector.of, apply)
    learner = make_train_step(
        loss,
        optimizer,
        guards=guards,
        window=1,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
        form=form,
    )
    iteration = Iteration(
        config=config,
        environment=vector,
        apply=apply,
        prepare=Preparation(config, vector, apply, unit, loss),
        learner=learner,
        window=window,
        rolls_back=any(guard.rolls_back for guard in guards or ()),
    )
    return iteration, first_parameters(network)


def first_parameters(network: Callable[[Any], ActorCritic]) -> Parameters:
    """Return the jitted function from a key to the parameters."""
    return jit_once(lambda key: initial_parameters(network(key)))
