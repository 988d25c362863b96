"""Components in units of their own running magnitude."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.core.running import count_where, running_mean
from stabjax.loss_transforms._transformed import (
    Call,
    TransformedLoss,
    WithTransform,
    rebuild,
    required_names,
    run_inner,
    split_state,
)
from stabjax.numerics import bounded_reciprocal
from stabjax.numerics._check import check_range
from stabjax.types import Aux, Loss, Scalar


class MagnitudeState(NamedTuple):
    """Running magnitudes, in the order of the components.

    Attributes:
        magnitude: Running mean of the absolute raw value [raw].
        seen: Finite values so far [steps].
    """

    magnitude: Float[Array, " components"]
    seen: Int[Array, " components"]


def scale_by_magnitude(
    loss_fn: Loss, *, decay: float = 0.99, floor: float = 1e-6
) -> TransformedLoss:
    """Divide each component by the running mean of its absolute raw value.

    ``sum_i weighted_i / clip(m_i, floor, 1e30)`` with
    ``m_i += max(1/(seen + 1), 1 - decay) * (|raw_i| - m_i)``, this step included, so
    that the first step divides each raw value by itself. The weights of the loss then
    set the shares of the components, not their units.

    The magnitudes are model state: a refused step does not move them, and neither does
    a value that is not finite. Start with ``train.init(params, batch,
    model_state=loss_fn.init_model_state(model_state))``.

    Args:
        loss_fn: A loss whose components are known: from `weigh`, `combine` or
            `name_components`. It must report ``raw/<name>`` of each.
        decay: Memory of the running mean, in [0, 1).
        floor: Smallest magnitude to divide by, in units of the raw value,
            [1e-30, 1e29].

    Returns:
        A loss whose ``weighted/<name>`` are scaled, with the metrics
        ``magnitude/<name>``. Its model state is a `WithTransform` of the model state
        inside and a `MagnitudeState`: two vectors of one entry per component.

    Raises:
        ValueError: If an option is out of range, the components are not known, or,
            when called, if a raw value is not reported or the state is another.

    Gradient:
        ``sum_i grad weighted_i / clip(m_i, floor, 1e30)``; ``m_i`` is held constant.

    Source:
        Own; the adaptive weights of seed 004, with memory and a limit.

    Example:
        >>> from stabjax.losses import combine
        >>> inner = combine({"fit": lambda p, b, k: 1e6 * p, "size": lambda p, b, k: p})
        >>> loss_fn = scale_by_magnitude(inner)
        >>> state = loss_fn.init_model_state()
        >>> key = jax.random.key(0)
        >>> loss, aux = loss_fn(jnp.float32(3.0), None, key, model_state=state)
        >>> float(loss), float(aux["magnitude/fit"])
        (2.0, 3000000.0)
    """
    origin = "scale_by_magnitude"
    # The largest number below 1 in float32 arithmetic still forgets.
    check_range(origin, "decay", decay, low=0.0, high=1.0 - 2.0**-24)
    check_range(origin, "floor", floor, low=1e-30, high=1e29)
    names = required_names(origin, loss_fn)

    def wrap_state(model_state: Any) -> WithTransform:
        magnitudes = MagnitudeState(
            magnitude=jnp.zeros((len(names),), jnp.float32),
            seen=jnp.zeros((len(names),), jnp.int32),
        )
        return WithTransform(model_state, magnitudes)

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        state, call = split_state(origin, call)
        weighted, aux = run_inner(origin, loss_fn, call)
        magnitudes = _moved(state, _raw_values(origin, names, aux), decay)
        factors = bounded_reciprocal(
            magnitudes.magnitude, scale=1.0, low=floor, high=1e30
        )
        metrics = {}
        for index, name in enumerate(names):
            weighted[name] = weighted[name] * factors[index]
            metrics[f"magnitude/{name}"] = magnitudes.magnitude[index]
        model = aux.pop("model_state", None)
        metrics["model_state"] = WithTransform(model, magnitudes)
        return rebuild(origin, weighted, aux, metrics)

    return TransformedLoss(loss_fn, evaluate, names, wrap_state=wrap_state)


def _raw_values(
    origin: str, names: tuple[str, ...], aux: dict[str, Any]
) -> Float[Array, " components"]:
    missing = [name for name in names if f"raw/{name}" not in aux]
    if missing:
        raise ValueError(f"{origin}: aux must report raw/<name>, missing {missing}.")
    values = jnp.stack([jnp.asarray(aux[f"raw/{n}"], jnp.float32) for n in names])
    return jax.lax.stop_gradient(values)


def _moved(
    state: MagnitudeState, raw: Float[Array, " components"], decay: float
) -> MagnitudeState:
    magnitude = running_mean(state.magnitude, jnp.abs(raw), state.seen, decay)
    return MagnitudeState(magnitude, count_where(state.seen, jnp.isfinite(raw)))
