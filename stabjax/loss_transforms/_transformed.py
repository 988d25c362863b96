"""A loss made from another one, and how its components are read and re-formed."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from stabjax.core.loss_form import uniform
from stabjax.core.loss_result import taken_apart
from stabjax.losses import WeighedLoss
from stabjax.losses._weigh import as_scalar, check_names, merge_aux, takes_state
from stabjax.types import Aux, Batch, Loss, Params, Scalar

PREFIX = "weighted/"


class Call(NamedTuple):
    """The arguments of one call of a loss.

    Attributes:
        params: Parameters.
        batch: The batch.
        key: Random key.
        step: The step, or None where nothing asks for it.
        keywords: ``model_state=`` of a stateful loss, else empty.
    """

    params: Params
    batch: Batch
    key: Any
    step: Any
    keywords: Mapping[str, Any]


class WithTransform(NamedTuple):
    """Parameters or model state, with those of a transform beside them.

    Attributes:
        model: Those of the loss inside; None where it has no state.
        transform: Those of the transform.
    """

    model: Any
    transform: Any


@dataclasses.dataclass(frozen=True, eq=False)
class TransformedLoss:
    """A `LossFn` made from another; every function of this package returns one.

    Attributes:
        inner: The loss it was made from.
        evaluate: ``Call -> (loss, aux)``.
        components: Names of the components that add up to the loss, or None where
            they are known only once the loss is called.
        uses_step: It needs ``step=`` itself.
        wrap_params: Puts its own parameters beside those of ``inner``.
        wrap_state: Puts its own state beside the model state of ``inner``.
    """

    inner: Loss
    evaluate: Callable[[Call], tuple[Scalar, Aux]]
    components: tuple[str, ...] | None
    uses_step: bool = False
    wrap_params: Callable[[Params], Params] | None = None
    wrap_state: Callable[[Any], Any] | None = None

    @property
    def wants_step(self) -> bool:
        """Whether the loss must be called with ``step=``."""
        return self.uses_step or uniform("TransformedLoss", self.inner).wants_step

    @property
    def takes_state(self) -> bool:
        """Whether the loss takes ``model_state=``."""
        if self.wrap_state is not None:
            return True
        if isinstance(self.inner, TransformedLoss):
            return self.inner.takes_state
        return takes_state(self.inner)

    def init_params(self, params: Params) -> Params:
        """Return the parameters to train: those given, and any of the transforms."""
        if isinstance(self.inner, TransformedLoss):
            params = self.inner.init_params(params)
        return params if self.wrap_params is None else self.wrap_params(params)

    def init_model_state(self, model_state: Any = None) -> Any:
        """Return the model state to start from: that given, and any of transforms."""
        if isinstance(self.inner, TransformedLoss):
            model_state = self.inner.init_model_state(model_state)
        return model_state if self.wrap_state is None else self.wrap_state(model_state)

    def __call__(
        self, params: Any, batch: Any, key: Any, /, *, step: Any = None, **kwargs: Any
    ) -> tuple[Scalar, Aux]:
        """Return the total and its flat mapping of scalars.

        Raises:
            ValueError: If ``step`` is missing although it is needed.
        """
        if self.wants_step and step is None:
            raise ValueError("TransformedLoss: step must be given, got None.")
        return self.evaluate(Call(params, batch, key, step, kwargs))


class Parts(NamedTuple):
    """What a loss returned, taken apart.

    Attributes:
        weighted: The components that add up to the loss, float32, by name.
        aux: Everything else that was reported.
    """

    weighted: dict[str, Scalar]
    aux: dict[str, Any]


def names_of(loss_fn: Loss) -> tuple[str, ...] | None:
    """Return the components of a loss where they are known before it is called."""
    if isinstance(loss_fn, TransformedLoss):
        return loss_fn.components
    if isinstance(loss_fn, WeighedLoss):
        weights = loss_fn.weights.items()
        return tuple(name for name, w in weights if callable(w) or w != 0)
    return None


def required_names(origin: str, loss_fn: Loss) -> tuple[str, ...]:
    """Return the components of a loss, for a transform with a state of that size."""
    names = names_of(loss_fn)
    if names is None:
        raise ValueError(
            f"{origin}: loss_fn must be one whose components are known (from weigh, "
            f"combine or name_components), got {loss_fn!r}."
        )
    return names


def call_inner(origin: str, loss_fn: Loss, call: Call) -> tuple[Any, dict[Any, Any]]:
    """Call a loss with what it takes, and return ``(loss, aux)``."""
    keywords = dict(call.keywords)
    whole = uniform(origin, loss_fn)
    if whole.wants_step:
        keywords["step"] = call.step
    result = whole.result_of(call.params, call.batch, call.key, **keywords)
    return taken_apart(origin, result)


def run_inner(
    origin: str, loss_fn: Loss, call: Call, names: tuple[str, ...] | None = None
) -> Parts:
    """Call a loss and take apart what it returns.

    ``unnamed``, the loss less the sum of its components, is reported beside them:
    what no component names is no part of a transformed loss.

    Args:
        origin: The function that asks, for messages.
        loss_fn: The loss.
        call: Its arguments.
        names: The components; by default those it is known to have, or all that it
            reports.

    Returns:
        Its components and the rest of its report.
    """
    total, aux = call_inner(origin, loss_fn, call)
    rest = dict(aux)
    found = sorted(n.removeprefix(PREFIX) for n in aux if n.startswith(PREFIX))
    names = names or names_of(loss_fn) or tuple(found)
    if not names:
        raise ValueError(
            f"{origin}: aux must report the components as 'weighted/<name>', "
            f"got {sorted(aux)}."
        )
    check_names(origin, "components", names, found)
    weighted = {n: as_scalar(origin, n, rest.pop(PREFIX + n)) for n in names}
    if "unnamed" not in rest:
        rest["unnamed"] = jnp.asarray(total, jnp.float32) - total_of(weighted)
    return Parts(weighted, rest)


def split_state(origin: str, call: Call) -> tuple[Any, Call]:
    """Return the state of a transform, and the call of the loss inside."""
    state = call.keywords.get("model_state")
    if not isinstance(state, WithTransform):
        raise ValueError(
            f"{origin}: model_state must be one of init_model_state, "
            f"got {type(state).__name__}."
        )
    keywords = {} if state.model is None else {"model_state": state.model}
    return state.transform, call._replace(keywords=keywords)


def total_of(weighted: Mapping[str, Scalar]) -> Scalar:
    """Return the sum of the components, in their order."""
    first, *others = weighted.values()
    return sum(others, start=first)


def rebuild(
    origin: str, weighted: Mapping[str, Scalar], aux: Aux, metrics: Aux | None = None
) -> tuple[Scalar, dict[str, Any]]:
    """Return loss and aux from components; a key reported twice is a ValueError."""
    report = {PREFIX + name: value for name, value in weighted.items()}
    return total_of(weighted), merge_aux(origin, report, aux, metrics or {})
