"""One forward pass, and a backward pass per component or of a transform's choosing."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import PyTree

from stabjax.loss_transforms._transformed import Call, Parts, run_inner
from stabjax.types import LossFn, Params, Scalar

Weighted = dict[str, Scalar]


@dataclasses.dataclass(frozen=True)
class Pulls:
    """Gradients of components that share one forward pass.

    Attributes:
        linear: Tangent of the parameters to tangents of the components.
        params: Shapes of the parameters.
        names: The components, in their order.
    """

    linear: Callable[[Params], Weighted]
    params: PyTree
    names: tuple[str, ...]

    def one(self, name: str, cotangent: Scalar | float = 1.0) -> Params:
        """Return ``cotangent * grad component``; the others are not visited at all."""
        tangent = lambda t: self.linear(t)[name]
        transposed = jax.linear_transpose(tangent, self.params)
        return transposed(jnp.asarray(cotangent, jnp.float32))[0]

    def all(self, cotangents: Mapping[str, Scalar]) -> Params:
        """Return ``sum_i cotangent_i * grad component_i`` over those that are given.

        In one backward pass; what is not given is not visited.
        """
        chosen = lambda t: {name: self.linear(t)[name] for name in cotangents}
        return jax.linear_transpose(chosen, self.params)(dict(cotangents))[0]


# (parts, pulls) -> (components, any report, what the backward pass keeps).
Forward = Callable[[Parts, Pulls], tuple[Weighted, Any, Any]]
# (what was kept, pulls, cotangents of the components that have one) -> gradient.
Backward = Callable[[Any, Pulls, Weighted], Params]


def plain_backward(kept: Any, pulls: Pulls, cotangents: Weighted) -> Params:
    """Return the gradient as it is."""
    del kept
    return pulls.all(cotangents)


def run_with_backward(
    origin: str,
    loss_fn: LossFn,
    call: Call,
    *,
    forward: Forward,
    backward: Backward = plain_backward,
) -> tuple[Weighted, Any]:
    """Call a loss under a backward pass of one's own.

    The components carry the gradient that ``backward`` says, and the report of
    ``forward`` carries none. Only the parameters are differentiated: asking for the
    gradient of the batch is an error, and so is forward mode.

    Args:
        origin: The function that asks, for messages.
        loss_fn: The loss.
        call: Its arguments.
        forward: What to do once the components are computed.
        backward: What their gradient is.

    Returns:
        The components and the report of ``forward``.
    """
    # The order of the components, which a mapping loses on its way through JAX.
    names: dict[str, None] = {}

    def components(params: Params) -> tuple[Weighted, dict[str, Any]]:
        parts = run_inner(origin, loss_fn, call._replace(params=params))
        names.update(dict.fromkeys(parts.weighted))
        return parts.weighted, parts.aux

    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)),
        call.params,
    )

    @jax.custom_vjp
    def evaluate(params: Params):
        return evaluate_both(params)[0]

    def evaluate_forward(params: Params):
        return evaluate_both(jax.tree.map(lambda leaf: leaf.value, params))

    def evaluate_both(params: Params):
        weighted, linear, aux = jax.linearize(components, params, has_aux=True)
        parts = Parts({name: weighted[name] for name in names}, aux)
        weighted, report, kept = forward(parts, Pulls(linear, shapes, tuple(names)))
        return (weighted, report), (linear, kept)

    def evaluate_backward(residual: Any, cotangents: Any):
        linear, kept = residual
        # Zero times the NaN of a component that nobody asks for would be NaN.
        asked = {
            name: cotangent
            for name, cotangent in cotangents[0].items()
            if not isinstance(cotangent, SymbolicZero)
        }
        if not asked:
            return (jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),)
        return (backward(kept, Pulls(linear, shapes, tuple(names)), asked),)

    evaluate.defvjp(evaluate_forward, evaluate_backward, symbolic_zeros=True)
    weighted, report = evaluate(call.params)
    return {name: weighted[name] for name in names}, report
