"""The guards that a caller lists, in whichever way, as one tuple."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from stabjax.core.given import is_optimizer, shown
from stabjax.types import Guard

# One guard, or a sequence of guards, each of which may again be a sequence.
Guards = Guard | Sequence[Guard | Sequence[Guard]]


def flattened(function: str, *given: Any) -> tuple[Guard, ...]:
    """Return the guards that were given, one by one or in sequences, in their order.

    Args:
        function: Name of the function that was called.
        *given: Guards, or sequences of what may be given.

    Returns:
        The guards.

    Raises:
        TypeError: If one is no guard.

    Example:
        >>> from stabjax.guards import back_off, skip_large, skip_spikes
        >>> first, second, third = back_off(), skip_large(1.0), skip_spikes()
        >>> guards = flattened("example", first, [second, (third,)])
        >>> [guard.name for guard in guards]
        ['back_off', 'skip_large', 'skip_spikes']
    """
    found: list[Guard] = []
    for each in given:
        if isinstance(each, Guard):
            found.append(each)
        elif _is_sequence(each):
            found.extend(flattened(function, *each))
        else:
            raise TypeError(
                f"{function}: every guard must be a Guard, got {shown(each)}; "
                f"{_advice(each)}."
            )
    return tuple(found)


def _is_sequence(value: Any) -> bool:
    # An optax transformation is a tuple, and text and mappings can be iterated over.
    other = isinstance(value, str | bytes | Mapping) or is_optimizer(value)
    return isinstance(value, Iterable) and not other and not hasattr(value, "dtype")


def _advice(value: Any) -> str:
    """Return what to write in place of what is no guard."""
    if isinstance(value, bool) or value is None:
        return "leave it out of the list"
    if isinstance(value, int | float):
        return f"write guards.clip_by_global_norm({value!r}) if it is a norm"
    if isinstance(value, str):
        return _call_of(value) or "write it as guards.<name>(...)"
    if isinstance(value, Mapping):
        return _call_of(str(value.get("kind"))) or "write guards.<name>(...)"
    if is_optimizer(value):
        return _instead_of_transformation(value)
    if callable(value):
        name = getattr(value, "__name__", "")
        return _call_of(name) or f"call it: {name or 'it'}(...)"
    return "write a guard such as guards.skip_spikes()"


def _instead_of_transformation(value: Any) -> str:
    made_by = getattr(value.update, "__qualname__", "").split(".")[0]
    if getattr(value.update, "__module__", "").startswith("stabjax"):
        return "list the guard itself, such as guards.skip_spikes()"
    instead = _call_of(made_by)
    chained = "optax.chain(it, optimizer) in place of the optimizer"
    return f"{instead}, or {chained}" if instead else f"write {chained}"


def _call_of(name: str) -> str | None:
    """Return how the guard of that name is made, or None if there is none."""
    from stabjax.guards import GUARDS  # which lists the modules beside this one

    if name not in GUARDS:
        return None
    return f"write guards.{name}({_required(GUARDS[name])})"


def _required(factory: Callable[..., Any]) -> str:
    parameters = inspect.signature(factory).parameters.values()
    missing = [p.name for p in parameters if p.default is inspect.Parameter.empty]
    return ", ".join(f"{name}=..." for name in missing)
