"""The forms in which people write a loss, made one: ``-> (loss, aux)`` with a key.

How it is called is decided once, from its signature.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from stabjax.core.given import shown
from stabjax.core.loss_result import loss_and_aux
from stabjax.types import Aux, Loss, Scalar

_KEY_NAMES = ("key", "rng")
_OURS = ("model_state", "step")
_FORMS = "(params, batch, key) or (params, batch)"

_Key = Literal["third", "named", "none"]
_State = Literal["asks", "takes", "refuses"]


class _Call(NamedTuple):
    """How a loss is called.

    Attributes:
        key: Whether the key is its third argument, one by name, or none.
        key_name: That name.
        step: It asks for ``step=``.
        model_state: Whether it takes ``model_state=``: ``"asks"`` without a default.
    """

    key: _Key = "third"
    key_name: str = "key"
    step: bool = False
    model_state: _State = "takes"


@dataclasses.dataclass(frozen=True, eq=False)
class UniformLoss:
    """A loss of any accepted form as a `LossFn`; made by `uniform`.

    Attributes:
        origin: The function it was given to, for messages.
        loss_fn: The loss as it was written.
        call: How to call it.
    """

    origin: str
    loss_fn: Callable[..., Any]
    call: _Call

    @property
    def wants_step(self) -> bool:
        """Whether the loss must be called with ``step=``."""
        return self.call.step

    def __call__(
        self, params: Any, batch: Any, key: Any, /, **kwargs: Any
    ) -> tuple[Scalar, Aux]:
        """Return the scalar loss and its flat mapping.

        Raises:
            TypeError: If it cannot be called so, or returns something else.
            ValueError: If the loss or a metric is no scalar.
        """
        result = self.result_of(params, batch, key, **kwargs)
        return loss_and_aux(self.origin, result)

    def result_of(self, params: Any, batch: Any, key: Any, /, **kwargs: Any) -> Any:
        """Return what the loss itself returns."""
        self._check_model_state("model_state" in kwargs)
        given: tuple[Any, ...] = (params, batch)
        if self.call.key == "third":
            given = (*given, key)
        elif self.call.key == "named":
            kwargs[self.call.key_name] = key
        return self.loss_fn(*given, **kwargs)

    def _check_model_state(self, given: bool) -> None:
        if given and self.call.model_state == "refuses":
            raise TypeError(
                f"{self.origin}: model_state was given, but {shown(self.loss_fn)} "
                "takes none; write def loss_fn(params, batch, key, *, model_state), "
                "and return the new one as aux['model_state']."
            )
        if not given and self.call.model_state == "asks":
            raise TypeError(
                f"{self.origin}: {shown(self.loss_fn)} asks for model_state; give it "
                "as init(params, batch, model_state=...)."
            )


def uniform(origin: str, loss_fn: Loss) -> UniformLoss:
    """Return a loss of any accepted form as one of the form of `LossFn`.

    Args:
        origin: The function it was given to, for messages.
        loss_fn: The loss, in one of the forms that `stabjax.types.LossFn` lists.

    Returns:
        A loss that takes ``(params, batch, key, **keywords)`` and returns ``(loss,
        aux)``.

    Raises:
        TypeError: If it is no function, or its signature has no place for parameters
            and batch, or asks for what nobody gives.

    Example:
        >>> import jax
        >>> loss_fn = uniform("example", lambda params, batch: params - batch)
        >>> loss, aux = loss_fn(3.0, 1.0, jax.random.key(0))
        >>> float(loss), aux
        (2.0, {})
    """
    if isinstance(loss_fn, UniformLoss):
        return loss_fn
    if not callable(loss_fn):
        raise TypeError(
            f"{origin}: the loss must be a function {_FORMS} -> (loss, aux), "
            f"got {shown(loss_fn)}."
        )
    return UniformLoss(origin, loss_fn, _call_of(origin, loss_fn))


def _call_of(origin: str, loss_fn: Callable[..., Any]) -> _Call:
    parameters = _parameters(loss_fn)
    if parameters is None:
        return _Call(step=_wants_step(loss_fn))
    kinds = inspect.Parameter
    in_order = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    places = [p for p in parameters.values() if p.kind in in_order]
    named = {n: p for n, p in parameters.items() if p.kind is kinds.KEYWORD_ONLY}
    any_number = any(p.kind is kinds.VAR_POSITIONAL for p in parameters.values())
    any_name = any(p.kind is kinds.VAR_KEYWORD for p in parameters.values())
    _check_places(origin, loss_fn, parameters, places, any_number)
    key, key_name = _key_of(places, named, any_number)
    behind = places[3:] if key == "third" else places[2:]
    by_keyword = {p.name: p for p in behind} | named
    _check_rest(origin, loss_fn, by_keyword, {key_name} if key == "named" else set())
    asked = {name for name, p in by_keyword.items() if p.default is kinds.empty}
    takes_state = any_name or "model_state" in by_keyword
    accepted: _State = "takes" if takes_state else "refuses"
    return _Call(
        key=key,
        key_name=key_name,
        step=_wants_step(loss_fn) or "step" in asked,
        model_state="asks" if "model_state" in asked else accepted,
    )


def _key_of(
    places: Sequence[inspect.Parameter],
    named: Mapping[str, inspect.Parameter],
    any_number: bool,
) -> tuple[_Key, str]:
    """Return how the key is given, and by which name."""
    # One with a key for its default, as `functools.partial` leaves it, keeps that.
    by_name = [name for name in _KEY_NAMES if name in named and _is_unset(named[name])]
    asked = [n for n in by_name if named[n].default is inspect.Parameter.empty]
    if asked:
        return "named", asked[0]
    if len(places) > 2 and _takes_key(places[2]):
        return "third", "key"
    if by_name:
        return "named", by_name[0]
    return ("third" if any_number and len(places) < 3 else "none"), "key"


def _parameters(loss_fn: Any) -> Mapping[str, inspect.Parameter] | None:
    """Return the parameters of a function, None where it does not tell them."""

    def those(follow_wrapped: bool) -> Mapping[str, inspect.Parameter] | None:
        try:
            signature = inspect.signature(loss_fn, follow_wrapped=follow_wrapped)
        except (TypeError, ValueError):  # such as a function written in C
            return None
        return signature.parameters

    # A wrapper that has a signature of its own is called by that one.
    own = those(follow_wrapped=False)
    passes_on = own is None or any(
        parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in own.values()
    )
    return those(follow_wrapped=True) if passes_on else own


def _takes_key(third: inspect.Parameter) -> bool:
    by_keyword = third.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    if third.name in _OURS and by_keyword:
        return False
    return _is_unset(third) or any(part in third.name.lower() for part in _KEY_NAMES)


def _is_unset(parameter: inspect.Parameter) -> bool:
    return parameter.default is inspect.Parameter.empty or parameter.default is None


def _wants_step(loss_fn: Any) -> bool:
    if isinstance(loss_fn, functools.partial):
        return "step" not in loss_fn.keywords and _wants_step(loss_fn.func)
    return bool(getattr(loss_fn, "wants_step", False))


def _check_places(
    origin: str,
    loss_fn: Any,
    parameters: Mapping[str, Any],
    places: Sequence[inspect.Parameter],
    any_number: bool,
) -> None:
    """Raise if there is no place for parameters and batch, in this order."""
    got = f"got {shown(loss_fn)} with the arguments ({', '.join(parameters)})"
    if len(places) < 2 and not any_number:
        raise TypeError(
            f"{origin}: the loss must take {_FORMS}, {got}; write "
            "lambda params, batch: loss_fn(...)."
        )
    if len(places) > 1 and places[1].name in _KEY_NAMES:
        raise TypeError(
            f"{origin}: the loss must take the batch second, {_FORMS}, {got}; write "
            "lambda params, batch, key: loss_fn(params, key, batch)."
        )


def _check_rest(
    origin: str,
    loss_fn: Any,
    by_keyword: Mapping[str, inspect.Parameter],
    given: set[str],
) -> None:
    """Raise if the loss asks for something else than key, model state and step."""
    for name, parameter in by_keyword.items():
        if parameter.default is not inspect.Parameter.empty:
            continue
        if name not in given and name not in _OURS:
            raise TypeError(
                f"{origin}: the loss must take {_FORMS}, and model_state= and step= "
                f"if it likes, but {shown(loss_fn)} asks for {name!r} besides; write "
                f"functools.partial(loss_fn, {name}=...)."
            )
