"""A total loss from named terms: capped, weighted, and each one reported."""

import dataclasses
import difflib
import inspect
import math
import numbers
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stabjax.types import Aux, Scalar

# A number, or an optax schedule: step -> number.
Weight = float | int | Callable[[Any], Any]
# A function of the raw value, or one that returns (value, hits) as `hard_clamp` does.
Cap = Callable[[Array], Any]
# (params, batch, key, **keywords) -> (raw values by name, aux).
TermsFn = Callable[..., tuple[Mapping[str, Any], Aux]]


@dataclasses.dataclass(frozen=True, eq=False)
class WeighedLoss:
    """A `LossFn` made of named terms; build one with `weigh` or `combine`.

    Attributes:
        origin: The function that built it, for messages.
        terms_fn: Returns the raw terms by name, and an aux.
        weights: One number or schedule per term.
        caps: Bounds on raw values, by term.
        passes_step: ``terms_fn`` takes ``step=`` itself.
        takes_state: ``terms_fn`` takes ``model_state=``.
    """

    origin: str
    terms_fn: TermsFn
    weights: Mapping[str, Weight]
    caps: Mapping[str, Cap]
    passes_step: bool = False
    takes_state: bool = False

    @property
    def wants_step(self) -> bool:
        """Whether the loss must be called with ``step=``."""
        return self.passes_step or any(callable(w) for w in self.weights.values())

    def __call__(
        self, params: Any, batch: Any, key: Any, /, *, step: Any = None, **kwargs: Any
    ) -> tuple[Scalar, Aux]:
        """Return the total, and the aux with ``raw/`` and ``weighted/`` of each term.

        Raises:
            ValueError: If ``step`` is missing although a weight is a schedule, if
                the terms are not those of ``weights``, or if two aux keys clash.
            TypeError: If ``model_state`` is given and no term takes it.
        """
        if self.wants_step and step is None:
            raise ValueError(
                f"{self.origin}: step must be given (a weight is a schedule), got None."
            )
        if "model_state" in kwargs and not self.takes_state:
            raise TypeError(
                f"{self.origin}: no term takes the model_state it was given."
            )
        if self.passes_step:
            kwargs["step"] = step
        terms, aux = self.terms_fn(params, batch, key, **kwargs)
        check_names(self.origin, "weights", self.weights, terms)
        check_complete(self.origin, self.weights, terms)
        total, report = self._weigh(terms, step)
        return total, merge_aux(self.origin, report, aux)

    def _weigh(self, terms: Mapping[str, Any], step: Any) -> tuple[Scalar, dict]:
        weighted, report = [], {}
        for name, weight in self.weights.items():
            raw = as_scalar(self.origin, name, terms[name])
            if not callable(weight) and weight == 0:
                report[f"inactive/{name}"] = jax.lax.stop_gradient(raw)
                continue
            report[f"raw/{name}"] = raw
            capped = self.caps[name](raw) if name in self.caps else raw
            if isinstance(capped, tuple):
                capped, hits = capped
                report[f"clamp_hits/{name}"] = hits.astype(jnp.float32)
            weighted.append(_times(weight, capped, step))
            report[f"weighted/{name}"] = weighted[-1]
        return sum(weighted[1:], start=weighted[0]), report


def _times(weight: Weight, value: Scalar, step: Any) -> Scalar:
    if not callable(weight):
        return jnp.float32(weight) * value
    now = jnp.asarray(weight(step), jnp.float32)
    # A schedule cannot raise inside a step: a weight it must not have becomes NaN,
    # which the finite contract refuses. At zero the value is selected away.
    now = jnp.where(now >= 0.0, now, jnp.nan)
    return jnp.where(now == 0.0, 0.0, now * value)


def as_scalar(origin: str, name: str, value: Any) -> Scalar:
    """Return ``value`` as a float32 scalar; any other shape is a ValueError."""
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"{origin}: {name!r} must be a float scalar, "
            f"got shape {value.shape} of {value.dtype}."
        )
    return value.astype(jnp.float32)


def merge_aux(origin: str, *parts: Aux) -> dict[str, Any]:
    """Join flat mappings; a key in two of them is a ValueError."""
    merged: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            if key in merged:
                raise ValueError(
                    f"{origin}: aux keys must be unique, got {key!r} twice."
                )
            merged[key] = value
    return merged


def takes_state(function: Callable[..., Any]) -> bool:
    """Whether a loss or terms function accepts ``model_state=``."""
    known = getattr(function, "takes_state", None)
    if known is not None:  # a loss made by us takes any keyword to pass it on
        return known
    parameters = inspect.signature(function).parameters
    every = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return every or "model_state" in parameters


def check_names(
    origin: str, argument: str, given: Iterable[str], known: Iterable[str]
) -> None:
    """Raise ValueError, with the nearest valid name, for a name that is not known."""
    known = sorted(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(
                f"{origin}: {argument} must be among {known}, got {name!r}{hint}"
            )


def check_complete(
    origin: str, weights: Iterable[str], components: Iterable[str]
) -> None:
    """Raise ValueError unless each component has a weight."""
    missing = sorted(set(components) - set(weights))
    if missing:
        raise ValueError(f"{origin}: weights must name every term, missing {missing}.")


def check_options(
    origin: str, weights: Mapping[str, Weight], caps: Mapping[str, Cap]
) -> None:
    """Raise for a weight that is neither a number >= 0 nor a schedule, and the like."""
    for name, weight in weights.items():
        if callable(weight):
            continue
        number = isinstance(weight, numbers.Real) and not isinstance(weight, bool)
        if not (number and 0.0 <= weight < math.inf):
            raise ValueError(
                f"{origin}: weights[{name!r}] must be in [0, inf) or a schedule, "
                f"got {weight!r}."
            )
    if all(not callable(w) and w == 0 for w in weights.values()):
        raise ValueError(
            f"{origin}: weights must hold one that is not zero, got {dict(weights)}."
        )
    check_names(origin, "caps", caps, weights)
    for name, cap in caps.items():
        if not callable(cap):
            raise ValueError(f"{origin}: caps[{name!r}] must be a function, got {cap}.")


def weigh(
    terms_fn: TermsFn,
    *,
    weights: Mapping[str, Weight],
    caps: Mapping[str, Cap] | None = None,
) -> WeighedLoss:
    """Build a loss from one function that returns all its terms.

    ``sum_i weight_i * cap_i(raw_i)``. For terms that share a forward pass; separate
    functions go to `combine`.

    Args:
        terms_fn: ``(params, batch, key) -> (terms, aux)``, terms being raw scalars by
            name. Keywords such as ``model_state=`` are handed to it, and its aux,
            ``"model_state"`` included, is handed on.
        weights: For every term a number in [0, inf) or a schedule ``step -> number``.
            Then the loss has ``wants_step`` and must be called with ``step=``. A
            negative or NaN value of a schedule makes the loss NaN, so that the step
            is refused.
        caps: For some terms a bound on the raw value, before weighting, for example
            ``functools.partial(soft_clamp, scale=10.0)``. One that returns
            ``(value, hits)`` as `hard_clamp` does has its hits reported.

    Returns:
        A `stabjax.types.LossFn`. Its aux is that of ``terms_fn``, plus, in float32,
        ``raw/<name>``, ``weighted/<name>`` and ``clamp_hits/<name>``. A term with
        the number 0 as its weight is left out, not multiplied by zero: it is
        reported as ``inactive/<name>``, without gradient and outside the finite
        contract, so that a NaN in it is harmless. A schedule at zero contributes
        zero to the value, but its term stays under the finite contract and its
        backward pass still runs.

    Raises:
        ValueError: If a weight or cap is out of range or names no term; the names of
            the terms are known when the loss is first called.

    Gradient:
        ``sum_i weight_i * cap_i'(raw_i) * grad raw_i``.

    Source:
        Own.

    Example:
        >>> def terms(params, batch, key):
        ...     error = params * batch - 1.0
        ...     return {"fit": error**2, "size": params**2}, {"error": error}
        >>> loss_fn = weigh(terms, weights={"fit": 1.0, "size": 0.5})
        >>> loss, aux = loss_fn(jnp.array(2.0), jnp.array(2.0), jax.random.key(0))
        >>> float(loss), float(aux["raw/size"]), float(aux["weighted/size"])
        (11.0, 4.0, 2.0)
    """
    caps = dict(caps or {})
    check_options("weigh", weights, caps)
    passes_step = bool(getattr(terms_fn, "wants_step", False))
    return WeighedLoss(
        "weigh",
        terms_fn,
        dict(weights),
        caps,
        passes_step=passes_step,
        takes_state=takes_state(terms_fn),
    )
