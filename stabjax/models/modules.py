"""The door to flax: a module goes in, a parameter tree and a pure function come out."""

from collections.abc import Callable
from typing import Any

from flax import nnx

__all__ = ["graph_of", "initial_parameters"]


def initial_parameters(module: nnx.Module) -> Any:
    """Return the parameters of ``module`` as a plain tree of nested dictionaries."""
    _, parameters = nnx.split(module, nnx.Param)
    return nnx.to_pure_dict(parameters)


def graph_of(describe: Callable[[], nnx.Module]) -> Any:
    """Return the static structure of the module ``describe`` builds.

    Nothing is allocated: ``describe`` runs on shapes only. `nnx.merge` of this
    structure and a parameter tree gives a callable module inside a loss.
    """
    graph, _ = nnx.split(nnx.eval_shape(describe), nnx.Param)
    return graph
