"""Configuration: YAML and overrides to checked objects, without importing jax."""

from typing import TYPE_CHECKING, Any

from stabjax.config.errors import ConfigError as ConfigError

if TYPE_CHECKING:
    from stabjax.config.bind import bind as bind
    from stabjax.config.optimizers import OPTIMIZERS as OPTIMIZERS
    from stabjax.config.optimizers import SCHEDULES as SCHEDULES
    from stabjax.config.optimizers import build_optimizer as build_optimizer
    from stabjax.config.schema import CompareConfig as CompareConfig
    from stabjax.config.schema import RunConfig as RunConfig
    from stabjax.config.schema import TrainConfig as TrainConfig
    from stabjax.config.schema import build_guards as build_guards
    from stabjax.config.schema import effective as effective
    from stabjax.config.schema import load as load
    from stabjax.config.schema import loads as loads
    from stabjax.config.schema import override as override

_HOME = {
    "bind": "bind",
    "OPTIMIZERS": "optimizers",
    "SCHEDULES": "optimizers",
    "build_optimizer": "optimizers",
    "CompareConfig": "schema",
    "RunConfig": "schema",
    "TrainConfig": "schema",
    "build_guards": "schema",
    "effective": "schema",
    "load": "schema",
    "loads": "schema",
    "override": "schema",
}


def __getattr__(name: str) -> Any:
    # Loaded on first use: optax brings jax, which takes seconds to import.
    import importlib

    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
