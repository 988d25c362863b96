"""Checks of options, made once when a guard is built."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from stabjax.core.given import is_optimizer, shown
from stabjax.types import Flag, Guard, Scalar


def in_range(
    function: str,
    name: str,
    value: Any,
    low: float,
    high: float = math.inf,
    *,
    low_open: bool = False,
    high_open: bool = False,
) -> float:
    """Return ``value`` if it is a finite number in the range, else raise.

    Args:
        function: Name of the function that was called.
        name: Name of the argument.
        value: What was given.
        low: Smallest value.
        high: Largest value.
        low_open: Whether ``low`` itself is out.
        high_open: Whether ``high`` itself is out.

    Returns:
        The value.

    Raises:
        ValueError: If it is no number, not finite, or out of range.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    fine = (
        number
        and math.isfinite(value)
        and (value > low if low_open else value >= low)
        and (value < high if high_open else value <= high)
    )
    if not fine:
        left = "(" if low_open or low == -math.inf else "["
        right = ")" if high_open or high == math.inf else "]"
        raise ValueError(
            f"{function}: {name} must be in {left}{low:g}, {high:g}{right}, "
            f"got {shown(value)}{_beside(function, value)}."
        )
    return value


def positive(
    function: str, name: str, value: Any
) -> tuple[float | Scalar, Flag | bool]:
    """Return a bound, and whether it is one: positive, as is known now or in the step.

    A number is checked here. A scalar array, which is what `optax.inject_hyperparams`
    hands over, has no value yet; a step whose bound is not positive is to be refused.

    Args:
        function: Name of the function that was called.
        name: Name of the argument.
        value: What was given.

    Raises:
        ValueError: If it is no positive finite number and no scalar array.
    """
    if isinstance(value, jax.Array) and value.ndim == 0:
        bound = value.astype(jnp.float32)
        return bound, bound > 0.0
    return in_range(function, name, value, 0.0, low_open=True), True


def count(function: str, name: str, value: Any, low: int = 0) -> int:
    """Return ``value`` if it is a whole number of at least ``low``, else raise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(
            f"{function}: {name} must be a whole number >= {low}, "
            f"got {shown(value)}{_beside(function, value)}."
        )
    return value


def one_of(function: str, name: str, value: Any, allowed: Sequence[str]) -> str:
    """Return ``value`` if it is among ``allowed``, else raise."""
    if value not in allowed:
        names = ", ".join(repr(a) for a in allowed)
        raise ValueError(
            f"{function}: {name} must be one of {names}, "
            f"got {shown(value)}{_beside(function, value)}."
        )
    return value


def some_of(
    function: str, name: str, value: Any, allowed: Sequence[str]
) -> Sequence[str]:
    """Return ``value`` if it is a list of distinct ones among ``allowed``, else raise.

    Args:
        function: Name of the function that was called.
        name: Name of the argument.
        value: What was given.
        allowed: What may be in the list.

    Raises:
        ValueError: If it is no list, empty, or has another in it, or one twice.
    """
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    if not listed or is_optimizer(value) or not value:
        raise ValueError(
            f"{function}: {name} must be a list, such as {list(allowed[:1])!r}, "
            f"got {shown(value)}{_beside(function, value)}."
        )
    for each in value:
        one_of(function, name, each, allowed)
    if len(set(value)) != len(value):
        raise ValueError(f"{function}: {name} must be distinct, got {value!r}.")
    return value


def _beside(function: str, value: Any) -> str:
    """Return where to write what is a guard or an optimizer, and no option."""
    if isinstance(value, Guard):
        return f"; write it beside: guards=[{function}(...), {value.name}(...)]"
    if is_optimizer(value):
        return "; write the optimizer first: stabjax.guard(optimizer, guards)"
    return ""
