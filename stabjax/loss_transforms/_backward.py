"""One forward pass, and a backward pass per component or of a transform's choosing."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array

from stabjax.core.layout import is_inexact
from stabjax.loss_transforms._transformed import Call, Parts, run_inner
from stabjax.types import Loss, Params, Scalar

Weighted = dict[str, Scalar]


@dataclasses.dataclass(frozen=True)
class Pulls:
    """Gradients of components that share one forward pass.

    Attributes:
        linear: Tangents of the floating-point leaves to tangents of the components.
        leaves: Abstract values of all leaves of the parameters.
        structure: How the parameters are put together from them.
        names: The components, in their order.
    """

    linear: Callable[[list[Array]], Weighted]
    leaves: tuple[Any, ...]
    structure: Any
    names: tuple[str, ...]

    def one(self, name: str, cotangent: Scalar | float = 1.0) -> Params:
        """Return ``cotangent * grad component``; the others are not visited at all."""
        return self.all({name: jnp.asarray(cotangent, jnp.float32)})

    def all(self, cotangents: Mapping[str, Scalar]) -> Params:
        """Return ``sum_i cotangent_i * grad component_i`` over those that are given.

        In one backward pass; what is not given is not visited. Leaves that cannot
        have a gradient, such as counters, have an integer zero.
        """
        tangents = [leaf for leaf in self.leaves if is_inexact(leaf)]

        def chosen(tangents: list[Array]) -> Weighted:
            components = self.linear(tangents)
            return {name: components[name] for name in cotangents}

        (found,) = jax.linear_transpose(chosen, tangents)(dict(cotangents))
        rest = iter(found)
        gradient = [
            next(rest) if is_inexact(leaf) else jnp.zeros((), jnp.int32)
            for leaf in self.leaves
        ]
        return jax.tree.unflatten(self.structure, gradient)


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
    loss_fn: Loss,
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
    leaves, structure = jax.tree.flatten(call.params)
    moving = [index for index, leaf in enumerate(leaves) if is_inexact(leaf)]
    # With their sharding, where that is part of the type.
    shapes = tuple(jax.typeof(jnp.asarray(leaf)) for leaf in leaves)
    # The order of the components, which a mapping loses on its way through JAX.
    names: dict[str, None] = {}

    def components(tangible: list[Array]) -> tuple[Weighted, dict[str, Any]]:
        every = list(leaves)
        for index, leaf in zip(moving, tangible, strict=True):
            every[index] = leaf
        params = jax.tree.unflatten(structure, every)
        parts = run_inner(origin, loss_fn, call._replace(params=params))
        names.update(dict.fromkeys(parts.weighted))
        return parts.weighted, parts.aux

    def pulls_of(linear: Callable[[list[Array]], Weighted]) -> Pulls:
        return Pulls(linear, shapes, structure, tuple(names))

    @jax.custom_vjp
    def evaluate(tangible: list[Array]):
        return evaluate_both(tangible)[0]

    def evaluate_forward(tangible: list[Any]):
        return evaluate_both([leaf.value for leaf in tangible])

    def evaluate_both(tangible: list[Array]):
        weighted, linear, aux = jax.linearize(components, tangible, has_aux=True)
        parts = Parts({name: weighted[name] for name in names}, aux)
        weighted, report, kept = forward(parts, pulls_of(linear))
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
            return (None,)
        gradient = jax.tree.leaves(backward(kept, pulls_of(linear), asked))
        return ([gradient[index] for index in moving],)

    evaluate.defvjp(evaluate_forward, evaluate_backward, symbolic_zeros=True)
    weighted, report = evaluate([leaves[index] for index in moving])
    return {name: weighted[name] for name in names}, report
