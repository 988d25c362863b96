"""Programs that run once: to compile them takes longer than what they do."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["jit_once"]


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` jitted; on CPU compiled in haste, without optimizations.

    It cannot be called inside another jitted function.
    """
    hasty = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if hasty else None
    return jax.jit(function, compiler_options=options)
