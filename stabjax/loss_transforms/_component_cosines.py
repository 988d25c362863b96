"""Which components pull the parameters the same way."""

from typing import Any

from jaxtyping import Array, Float

from stabjax.loss_transforms._backward import Pulls, Weighted, run_with_backward
from stabjax.loss_transforms._component_gradient_norms import check_every, measured
from stabjax.loss_transforms._gram import gram
from stabjax.loss_transforms._transformed import (
    Call,
    Parts,
    TransformedLoss,
    names_of,
    rebuild,
)
from stabjax.losses._weigh import merge_aux
from stabjax.types import Aux, Loss, Scalar


def component_cosines(loss_fn: Loss, *, every: int = 1) -> TransformedLoss:
    """Report the cosine between the gradients of every two components.

    ``<g_i, g_j> / (norm(g_i) norm(g_j))`` over all parameters, float32, without
    overflow. Loss and gradient stay as they are. In the steps that measure it costs
    one more backward pass per component and holds all their gradients at once.

    Args:
        loss_fn: A loss whose components ``weighted/<name>`` add up to it.
        every: Measure in every such step, >= 1; the metrics are NaN in between. If
            more than 1 the loss has ``wants_step``.

    Returns:
        A loss with the metrics ``cosine/<first>/<second>`` for each pair in the order
        of the components, in [-1, 1]; 0 where a gradient is zero. No state.

    Raises:
        ValueError: If ``every`` is out of range.

    Gradient:
        Unchanged.

    Source:
        Du et al. (2018), Adapting auxiliary losses, arXiv:1812.02224.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from stabjax.losses import combine
        >>> inner = combine({"a": lambda p, b, k: p, "b": lambda p, b, k: -2.0 * p})
        >>> loss_fn = component_cosines(inner)
        >>> _, aux = loss_fn(jnp.float32(1.0), None, jax.random.key(0))
        >>> float(aux["cosine/a/b"])
        -1.0
    """
    origin = "component_cosines"
    check_every(origin, every)

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        def forward(parts: Parts, pulls: Pulls) -> tuple[Weighted, Any, Any]:
            def measure() -> Float[Array, "components components"]:
                return gram([pulls.one(name) for name in pulls.names]).cosines()

            cosines = measured(measure, call.step, every)
            metrics = {
                f"cosine/{first}/{second}": cosines[row, column]
                for row, first in enumerate(pulls.names)
                for column, second in enumerate(pulls.names)
                if row < column
            }
            return parts.weighted, merge_aux(origin, parts.aux, metrics), None

        weighted, aux = run_with_backward(origin, loss_fn, call, forward=forward)
        return rebuild(origin, weighted, aux)

    return TransformedLoss(loss_fn, evaluate, names_of(loss_fn), uses_step=every > 1)
