"""What a loss returns, made one: ``(loss, aux)``, or told in words what to return.

It is looked at while the loss is traced, where a wrong form is met first.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from stabjax.core.given import shown
from stabjax.types import Aux, Scalar


def loss_and_aux(origin: str, result: Any) -> tuple[Scalar, Aux]:
    """Return what a loss returned as ``(loss, aux)``, each checked.

    Args:
        origin: The function it was given to, for messages.
        result: The loss, or ``(loss, aux)``, or ``(loss, None)``.

    Returns:
        The loss, a real floating-point scalar, and a flat mapping.

    Raises:
        TypeError: If the result is something else.
        ValueError: If the loss or a metric is no scalar.
    """
    loss, aux = taken_apart(origin, result)
    if not hasattr(loss, "dtype"):
        loss = jnp.asarray(loss)
    _check_loss(origin, loss)
    for name, value in aux.items():
        if not isinstance(name, str):
            raise TypeError(f"{origin}: the names in aux must be text, got {name!r}.")
        if name != "model_state":
            _check_metric(origin, name, value)
    return loss, aux


def taken_apart(origin: str, result: Any) -> tuple[Any, dict[Any, Any]]:
    """Return what a loss returned as ``(loss, aux)``; see `loss_and_aux`."""
    if isinstance(result, tuple | list):
        if len(result) != 2 or isinstance(result, list):
            raise TypeError(_wrong(origin, _kind(result)))
        loss, aux = result
    else:
        loss, aux = result, None
    if isinstance(loss, Mapping | tuple | list) or loss is None:
        place = " in place of the loss" if loss is not result else ""
        raise TypeError(_wrong(origin, _kind(loss) + place))
    if aux is None:
        return loss, {}
    if not isinstance(aux, Mapping):
        raise TypeError(_wrong(origin, f"{_kind(aux)} as aux", _as_mapping(aux)))
    return loss, dict(aux)


def _check_loss(origin: str, loss: Any) -> None:
    if loss.shape != ():
        raise ValueError(
            f"{origin}: the loss must be a scalar, got shape {loss.shape}; "
            "write jnp.mean(loss)."
        )
    if not jnp.issubdtype(loss.dtype, jnp.floating):
        complex_valued = jnp.issubdtype(loss.dtype, jnp.complexfloating)
        form = "jnp.real(loss)" if complex_valued else "loss.astype(jnp.float32)"
        raise ValueError(
            f"{origin}: the loss must be a floating-point scalar, got {loss.dtype}; "
            f"write {form}."
        )


def _check_metric(origin: str, name: str, value: Any) -> None:
    if isinstance(value, bool | int | float):
        return
    said = f"{origin}: aux[{name!r}] must be a scalar"
    if isinstance(value, Mapping):
        flat = ", ".join(f"'{name}/{key}': ..." for key in list(value)[:2])
        raise ValueError(
            f"{said}, got a mapping; aux is flat: write {{{flat}}}, "
            "or leave it out of aux."
        )
    shape = getattr(value, "shape", None)
    if shape is None or not hasattr(value, "dtype"):
        raise ValueError(f"{said}, got {_kind(value)}; leave it out of aux.")
    if shape != ():
        raise ValueError(
            f"{said}, got shape {shape}; write jnp.mean(...) of it, "
            "or leave it out of aux."
        )
    real = jnp.issubdtype(value.dtype, jnp.floating)
    if not (real or jnp.issubdtype(value.dtype, jnp.integer) or value.dtype == bool):
        raise ValueError(
            f"{said} of real numbers, got {value.dtype}; leave it out of aux."
        )


def _wrong(origin: str, got: str, write: str = 'return loss, {"name": value}') -> str:
    return (
        f"{origin}: the loss must return loss, or (loss, aux) with aux a mapping of "
        f"names to scalars, got {got}; write {write}."
    )


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        names = ", ".join(repr(name) for name in list(value)[:3])
        return f"a mapping of {names or 'nothing'}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {value.shape}"
    return shown(value)


def _as_mapping(aux: Any) -> str:
    """Return how an aux of another kind would be written."""
    if isinstance(aux, tuple) and hasattr(aux, "_asdict"):
        return "return loss, aux._asdict()"
    if dataclasses.is_dataclass(aux):
        return "return loss, vars(aux)"
    return 'return loss, {"name": value}, with scalars by name'
