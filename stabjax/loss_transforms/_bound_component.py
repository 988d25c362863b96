"""A bound on one component of a loss."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from stabjax.loss_transforms._transformed import (
    Call,
    TransformedLoss,
    names_of,
    rebuild,
    run_inner,
)
from stabjax.losses._weigh import as_scalar, check_names
from stabjax.numerics._check import check_range
from stabjax.types import Aux, Loss, Scalar


def bound_component(
    loss_fn: Loss,
    name: str,
    bound: Callable[[Scalar], Any],
    *,
    saturation: float = 0.01,
) -> TransformedLoss:
    """Bound or compress one weighted component of a loss.

    ``bound(weighted_name) + sum_(i != name) weighted_i``. The raw value is left as it
    is and under the finite contract: a bound does not repair an infinity. To bound a
    raw value before its weight there is ``caps=`` of `stabjax.losses.weigh`.

    Args:
        loss_fn: A loss that reports ``weighted/<name>``.
        name: The component.
        bound: For example ``functools.partial(soft_clamp, scale=10.0)`` or the same of
            `asinh_compress`; or a function that returns ``(value, hits)`` as
            `hard_clamp` does.
        saturation: The component counts as saturated where no more than this part of
            its gradient is left, in [0, 1].

    Returns:
        A loss with ``weighted/<name>`` bounded and the metrics ``slope/<name>``, the
        factor on the gradient, and ``saturated/<name>``, 1 where the bound hits.

    Raises:
        ValueError: If ``saturation`` is out of range or the loss has no such
            component; a plain loss tells its components when it is called.

    Gradient:
        ``bound'(weighted_name) * grad weighted_name`` in place of the component's.

    Source:
        Own; bounded losses as in seeds 002 and 003, but per component and counted.

    Example:
        >>> from stabjax.losses import combine, soft_clamp
        >>> loss_fn = combine({"fit": lambda p, b, k: p, "size": lambda p, b, k: p / p})
        >>> bounded = bound_component(loss_fn, "fit", lambda x: soft_clamp(x, scale=2.))
        >>> loss, aux = bounded(jnp.float32(1e9), None, jax.random.key(0))
        >>> float(loss), float(aux["saturated/fit"])
        (3.0, 1.0)
    """
    origin = "bound_component"
    check_range(origin, "saturation", saturation, low=0.0, high=1.0)
    names = names_of(loss_fn)
    if names is not None:
        check_names(origin, "name", [name], names)

    def bounded(value: Scalar) -> tuple[Scalar, Any]:
        result = bound(value)
        value, hits = result if isinstance(result, tuple) else (result, 0)
        return as_scalar(origin, name, value), hits

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        weighted, aux = run_inner(origin, loss_fn, call)
        check_names(origin, "name", [name], weighted)
        value = weighted[name]
        here = jax.lax.stop_gradient(value)
        _, slope = jax.jvp(lambda x: bounded(x)[0], (here,), (jnp.ones_like(here),))
        weighted[name], hits = bounded(value)
        hit = (slope <= saturation) | (jnp.asarray(hits) > 0)
        metrics = {
            f"slope/{name}": slope,
            f"saturated/{name}": hit.astype(jnp.float32),
        }
        return rebuild(origin, weighted, aux, metrics)

    return TransformedLoss(loss_fn, evaluate, names)
