"""Which component of the loss has a gradient that is not finite."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from stabjax.core.layout import is_inexact, layout_of
from stabjax.core.measure import components_of
from stabjax.train_step.integer_leaves import gradient_of
from stabjax.types import Aux, Scalar


def blamed_components(
    loss: Callable[[PyTree], tuple[Scalar, Aux]], params: PyTree
) -> dict[str, list[str]]:
    """Return the components whose gradient is not finite, with the leaves it hits.

    A square root at zero behind a select, a softmax over nothing: the value of the
    component is finite, and its gradient is not. One backward pass per component; for
    a step that was refused, and has changed nothing.

    Args:
        loss: The loss of the parameters alone, with its mapping of scalars.
        params: Parameters.

    Returns:
        Component to the paths of its leaves, as ``{"raw/entropy": ["head/w"]}``; empty
        where every gradient is finite.
    """

    @jax.jit
    def found(params: PyTree) -> dict[str, Array]:
        def components(params: PyTree) -> dict[str, Scalar]:
            return components_of(loss(params)[1])

        # One by one: a cotangent of zero times an infinite slope is NaN as well.
        def broken(name: str) -> Array:
            one = lambda params: (components(params)[name], None)
            return _broken(gradient_of(one, params)[0])

        return {name: broken(name) for name in jax.eval_shape(components, params)}

    leaves = layout_of(params).leaves
    flags: dict[str, Any] = jax.device_get(found(params))
    hit = {
        name: [leaf for leaf, bad in zip(leaves, broken, strict=True) if bad]
        for name, broken in flags.items()
    }
    return {name: where for name, where in hit.items() if where}


def _broken(gradient: PyTree) -> Array:
    leaves = jax.tree.leaves(gradient)
    flags = [
        ~jnp.all(jnp.isfinite(leaf)) if is_inexact(leaf) else jnp.zeros((), jnp.bool_)
        for leaf in leaves
    ]
    return jnp.stack(flags) if flags else jnp.zeros((0,), jnp.bool_)
