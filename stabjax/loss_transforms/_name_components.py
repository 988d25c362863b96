"""Say which components add up to a loss."""

from collections.abc import Sequence

from stabjax.loss_transforms._transformed import (
    Call,
    TransformedLoss,
    rebuild,
    run_inner,
)
from stabjax.types import Aux, Loss, Scalar


def name_components(loss_fn: Loss, components: Sequence[str]) -> TransformedLoss:
    """Declare the components of a loss that neither `weigh` nor `combine` built.

    ``sum_i weighted_i`` over the names given. A transform with a state or parameters
    per component has to know them before the loss is called, and of nested totals
    only the outermost add up to the loss.

    Args:
        loss_fn: A loss that reports ``weighted/<name>`` for each of them.
        components: The names, at least one.

    Returns:
        The same loss, re-formed from the components. The metric ``unnamed`` is what
        it was without them; it is zero up to rounding if nothing was forgotten.

    Raises:
        ValueError: If no name is given or one twice, or, when called, if the loss
            does not report one.

    Gradient:
        That of the sum of the components.

    Source:
        Own.

    Example:
        >>> import jax.numpy as jnp
        >>> def loss_fn(params, batch, key):
        ...     return params * 2.0, {"weighted/fit": params * 2.0}
        >>> loss, aux = name_components(loss_fn, ["fit"])(jnp.float32(1.0), None, None)
        >>> float(loss), float(aux["unnamed"])
        (2.0, 0.0)
    """
    origin = "name_components"
    names = tuple(components)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"{origin}: components must be distinct names, got {components!r}."
        )

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        weighted, aux = run_inner(origin, loss_fn, call, names)
        return rebuild(origin, weighted, aux)

    return TransformedLoss(loss_fn, evaluate, names)
