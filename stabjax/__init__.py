"""Keeps a JAX training run alive and says why it was dying.

Names are imported when they are first used, so that the command line does not wait
for jax.
"""

import importlib
from typing import TYPE_CHECKING, Any

from stabjax._version import __version__ as __version__

if TYPE_CHECKING:
    from stabjax.guards import GUARDS as GUARDS
    from stabjax.losses import LOSSES as LOSSES
    from stabjax.losses import combine as combine
    from stabjax.train_step import TrainingHalted as TrainingHalted
    from stabjax.train_step import TrainState as TrainState
    from stabjax.train_step import TrainStep as TrainStep
    from stabjax.train_step import make_train_step as make_train_step

    # Not from the package, where mypy takes it for the module of that name.
    from stabjax.transforms.guard import guard as guard
    from stabjax.types import Alert as Alert
    from stabjax.types import Guard as Guard
    from stabjax.types import StepStats as StepStats
    from stabjax.types import Verdict as Verdict
    from stabjax.types import verdict as verdict

_HOME = {
    "GUARDS": "stabjax.guards",
    "LOSSES": "stabjax.losses",
    "combine": "stabjax.losses",
    "TrainState": "stabjax.train_step",
    "TrainStep": "stabjax.train_step",
    "TrainingHalted": "stabjax.train_step",
    "make_train_step": "stabjax.train_step",
    "guard": "stabjax.transforms",
    "Alert": "stabjax.types",
    "Guard": "stabjax.types",
    "StepStats": "stabjax.types",
    "Verdict": "stabjax.types",
    "verdict": "stabjax.types",
}
_MODULES = (
    "cost", "guards", "health", "inject", "loss_transforms", "losses", "numerics",
    "transforms", "types",
)  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _MODULES:
        return importlib.import_module(f"stabjax.{name}")
    raise AttributeError(f"module 'stabjax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOME, *_MODULES])
