"""Zero for what is not finite, and a count of it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core.elementwise import nonfinite_elements, repair
from stabjax.core.running import count_where
from stabjax.types import Count


class RepairNonfiniteState(NamedTuple):
    """What `repair_nonfinite` has done.

    Attributes:
        elements: Elements set to zero in the last step.
        total: The same over all steps; stops at 2**31 - 1.
        steps: Steps in which there was one.
    """

    elements: Count
    total: Count
    steps: Count


def repair_nonfinite() -> optax.GradientTransformation:
    """Set every element that is not finite to zero, and count how many there were.

    Unlike `optax.zero_nans` it does not let infinities pass. A repaired gradient is
    wrong, only bounded: where a whole step can be spared, `guard` is the better
    choice. The counts tell how often that is.

    Returns:
        A gradient transformation.

    Source:
        Own.

    Example:
        >>> repair = repair_nonfinite()
        >>> gradient = jnp.array([1.0, jnp.nan, -jnp.inf])
        >>> gradient, state = repair.update(gradient, repair.init(gradient))
        >>> print(gradient, state.elements)
        [1. 0. 0.] 2
    """

    def init(params: PyTree) -> RepairNonfiniteState:
        del params
        return RepairNonfiniteState(
            elements=jnp.zeros((), jnp.int32),
            total=jnp.zeros((), jnp.int32),
            steps=jnp.zeros((), jnp.int32),
        )

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, RepairNonfiniteState]:
        del params
        elements = nonfinite_elements(updates)
        most = jnp.iinfo(jnp.int32).max
        state = RepairNonfiniteState(
            elements=elements,
            total=jnp.minimum(state.total, most - elements) + elements,
            steps=count_where(state.steps, elements > 0),
        )
        return repair(updates), state

    return optax.GradientTransformation(init, update)
