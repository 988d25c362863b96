"""Environments by name."""

import dataclasses
from collections.abc import Callable, Mapping

from stabjax.config.errors import nearest, show
from stabjax.models.ppo.cartpole import cartpole
from stabjax.models.ppo.config import Config
from stabjax.models.ppo.durotaxis import durotaxis
from stabjax.models.ppo.environment import Environment, VectorEnvironment, vectorize
from stabjax.models.ppo.pendulum import pendulum

__all__ = ["ENVIRONMENTS", "make_environment"]

ENVIRONMENTS: dict[str, Callable[[], Environment]] = {
    "cartpole": cartpole,
    "durotaxis": durotaxis,
    "pendulum": pendulum,
}


def _gymnax(identifier: str, config: Config) -> VectorEnvironment:
    from stabjax.models.ppo.gymnax_environment import gymnax_environment

    return _side_by_side(gymnax_environment(identifier), config)


def _gymnasium(identifier: str, config: Config) -> VectorEnvironment:
    from stabjax.models.ppo.gymnasium_environment import gymnasium_environment

    return gymnasium_environment(
        identifier,
        config.num_envs,
        reward_scale=config.reward_scale,
        weights=lambda one: _weights(one, config.component_weights),
    )


# Names before a colon, and what reads the rest; of the extra "envs".
_ELSEWHERE: dict[str, Callable[[str, Config], VectorEnvironment]] = {
    "gymnasium": _gymnasium,
    "gymnax": _gymnax,
}


def make_environment(config: Config) -> VectorEnvironment:
    """Build ``config.num_envs`` environments of the kind the configuration names.

    Raises:
        ValueError: If there is no such environment or reward component; names the
            nearest.
        ImportError: If it needs a package that is not installed.
    """
    name = config.environment
    family, colon, identifier = name.partition(":")
    if colon and family in _ELSEWHERE:
        return _ELSEWHERE[family](identifier, config)
    if name not in ENVIRONMENTS:
        known = (*ENVIRONMENTS, *(f"{kind}:<id>" for kind in _ELSEWHERE))
        raise ValueError(
            f"make_environment: environment must be one of {', '.join(known)}, got "
            f"{show(name)}{nearest(name, ENVIRONMENTS)}"
        )
    return _side_by_side(ENVIRONMENTS[name](), config)


def _side_by_side(environment: Environment, config: Config) -> VectorEnvironment:
    weighted = dataclasses.replace(
        environment, weights=_weights(environment, config.component_weights)
    )
    return vectorize(weighted, config.num_envs, reward_scale=config.reward_scale)


def _weights(environment: Environment, given: Mapping[str, float]) -> tuple[float, ...]:
    for name in given:
        if name not in environment.components:
            raise ValueError(
                f"make_environment: component_weights must name components of "
                f"{environment.name} {list(environment.components)}, got "
                f"{show(name)}{nearest(name, environment.components)}"
            )
    pairs = zip(environment.components, environment.weights, strict=True)
    return tuple(float(given.get(name, weight)) for name, weight in pairs)
