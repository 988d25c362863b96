"""Who trains what: the gradient of each component on each group of parameters."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.core import groups as named
from stabjax.loss_transforms._backward import Pulls, Weighted, run_with_backward
from stabjax.loss_transforms._groups import groups_of, norms_by_group
from stabjax.loss_transforms._structure import disconnected_pairs
from stabjax.loss_transforms._transformed import (
    Call,
    Parts,
    TransformedLoss,
    names_of,
    rebuild,
)
from stabjax.losses._weigh import merge_aux
from stabjax.types import Aux, Loss, Scalar


def component_gradient_norms(
    loss_fn: Loss, groups: Sequence[str] = (), *, every: int = 1
) -> TransformedLoss:
    """Report the gradient norm of each component on each group of parameters.

    ``norm(grad_group weighted_component)``, l2, in float32. Loss and gradient stay as
    they are. Costs one more backward pass per component in the steps that measure.

    Args:
        loss_fn: A loss whose components ``weighted/<name>`` add up to it.
        groups: Path prefixes such as ``("encoder", "adjacency")``; leaves under none
            of them form the group ``rest``.
        every: Measure in every such step, >= 1; the metrics are NaN in between. If
            more than 1 the loss has ``wants_step``.

    Returns:
        A loss with the metrics ``gradient/<component>/<group>``. Between which no
        gradient can flow, whatever the numbers are (see `disconnected`), there is the
        further metric ``disconnected/<component>/<group>``, always 1; the metric
        ``disconnected`` is their number. No state.

    Raises:
        ValueError: If ``every`` is out of range or, when called, if a prefix fits no
            parameter.

    Gradient:
        Unchanged.

    Source:
        Own; seed 001, whose graph had no gradient from the data.

    Example:
        >>> from stabjax.losses import combine
        >>> inner = combine({"fit": lambda p, b, k: jnp.sum(p["a"] * 3.0)})
        >>> loss_fn = component_gradient_norms(inner, ["a", "b"])
        >>> params = {"a": jnp.zeros(()), "b": jnp.zeros(())}
        >>> _, aux = loss_fn(params, None, jax.random.key(0))
        >>> float(aux["gradient/fit/a"]), float(aux["disconnected/fit/b"])
        (3.0, 1.0)
    """
    origin = "component_gradient_norms"
    named.checked(origin, groups, "groups")
    check_every(origin, every)

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        sorted_leaves = groups_of(origin, call.params, groups)

        def forward(parts: Parts, pulls: Pulls) -> tuple[Weighted, Any, Any]:
            def measure() -> Float[Array, "components groups"]:
                rows = [
                    norms_by_group(pulls.one(n), sorted_leaves) for n in pulls.names
                ]
                return jnp.stack([jnp.stack(row) for row in rows])

            norms = measured(measure, call.step, every)
            pairs = disconnected_pairs(pulls, sorted_leaves)
            metrics = {
                f"gradient/{name}/{group}": norms[row, column]
                for row, name in enumerate(pulls.names)
                for column, group in enumerate(sorted_leaves.names)
            }
            metrics |= {f"disconnected/{n}/{g}": jnp.float32(1.0) for n, g in pairs}
            metrics["disconnected"] = jnp.float32(len(pairs))
            return parts.weighted, merge_aux(origin, parts.aux, metrics), None

        weighted, aux = run_with_backward(origin, loss_fn, call, forward=forward)
        return rebuild(origin, weighted, aux)

    return TransformedLoss(loss_fn, evaluate, names_of(loss_fn), uses_step=every > 1)


def check_every(origin: str, every: int) -> None:
    """Raise ValueError unless ``every`` is a whole number >= 1."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(f"{origin}: every must be a whole number >= 1, got {every!r}.")


def measured(measure: Callable[[], Array], step: Any, every: int) -> Array:
    """Return what ``measure`` does in every such step; NaN, at no cost, in between."""
    if every == 1:
        return measure()
    shape = jax.eval_shape(measure)
    between = lambda: jnp.full(shape.shape, jnp.nan, shape.dtype)
    return jax.lax.cond(jnp.asarray(step) % every == 0, measure, between)
