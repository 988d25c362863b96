"""A total loss from separate loss functions."""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax

from stabjax.core.loss_form import uniform
from stabjax.core.loss_result import taken_apart
from stabjax.losses._weigh import (
    Cap,
    WeighedLoss,
    Weight,
    check_complete,
    check_names,
    check_options,
    merge_aux,
    takes_state,
)


def _own_key(key: Any, name: str) -> Any:
    # By name, not by position: taking one component out leaves the others' noise.
    return jax.random.fold_in(key, zlib.crc32(name.encode()) & 0x7FFFFFFF)


def combine(
    components: Mapping[str, Callable[..., Any]],
    *,
    weights: Mapping[str, Weight] | None = None,
    caps: Mapping[str, Cap] | None = None,
) -> WeighedLoss:
    """Build a loss from separate loss functions, each under its name.

    ``sum_i weight_i * cap_i(component_i(params, batch, key_i))``. Terms that share a
    forward pass go to `weigh`.

    Args:
        components: By name, ``(params, batch, key) -> scalar`` or ``-> (scalar,
            aux)``, or another form that `stabjax.types.LossFn` lists. One that takes
            ``model_state=`` is given it, and one with an attribute ``wants_step =
            True`` is given ``step=``; a `WeighedLoss` may itself be a component.
        weights: As for `weigh`; all 1 by default.
        caps: As for `weigh`.

    Returns:
        A `stabjax.types.LossFn`, as for `weigh`. Its aux is that of all components.
        The key of a component depends on the run's key and its name alone.

    Raises:
        ValueError: If a name in ``weights`` or ``caps`` is no component, a component
            has no weight, a weight is negative or not finite, or, when called, two
            components report the same aux key (such as ``model_state``).
        TypeError: When called with ``model_state=`` that no component takes.

    Gradient:
        ``sum_i weight_i * cap_i'(raw_i) * grad component_i``.

    Source:
        Own.

    Example:
        >>> loss_fn = combine(
        ...     {"fit": lambda p, b, k: (p - b) ** 2, "size": lambda p, b, k: p**2},
        ...     weights={"fit": 1.0, "size": 0.5},
        ... )
        >>> loss, aux = loss_fn(2.0, 1.0, jax.random.key(0))
        >>> float(loss), sorted(aux)
        (3.0, ['raw/fit', 'raw/size', 'weighted/fit', 'weighted/size'])
    """
    components = dict(components)
    weights = dict.fromkeys(components, 1.0) if weights is None else dict(weights)
    caps = dict(caps or {})
    check_names("combine", "weights", weights, components)
    check_complete("combine", weights, components)
    check_options("combine", weights, caps)
    calls = {name: uniform(f"combine: {name!r}", f) for name, f in components.items()}
    steps = {name: call.wants_step for name, call in calls.items()}
    stateful = {name: takes_state(f) for name, f in components.items()}

    def terms_fn(
        params: Any, batch: Any, key: Any, *, step: Any = None, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        if kwargs and not any(stateful.values()):
            raise TypeError(
                "combine: model_state was given, but no component takes it."
            )
        terms, parts = {}, []
        for name, component in calls.items():
            given = dict(kwargs) if stateful[name] else {}
            if steps[name]:
                given["step"] = step
            result = component.result_of(params, batch, _own_key(key, name), **given)
            value, aux = taken_apart(component.origin, result)
            terms[name] = value
            parts.append(aux)
        return terms, merge_aux("combine", *parts)

    return WeighedLoss(
        "combine",
        terms_fn,
        weights,
        caps,
        passes_step=any(steps.values()),
        takes_state=any(stateful.values()),
    )
