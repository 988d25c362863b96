"""Programs that run once: to compile them takes longer than what they do."""

from collections.abc import Callable
from typing import Any

import jax

__all__ = ["hasty_options", "jit_once"]


def hasty_options() -> dict[str, str | bool] | None:
    """Return the compiler options that leave out optimizations; None but on CPU."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": "0"}


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` jitted; on CPU compiled in haste, without optimizations.

    It cannot be called inside another jitted function.
    """
    return jax.jit(function, compiler_options=hasty_options())
