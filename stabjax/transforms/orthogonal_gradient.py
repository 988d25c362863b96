"""The perpendicular gradient as a link of an optax chain."""

from typing import Any

import optax
from jaxtyping import PyTree

from stabjax import losses
from stabjax.transforms._common import moving


def orthogonal_gradient(*, keep_norm: bool = False) -> optax.GradientTransformation:
    """Return `stabjax.losses.orthogonal_gradient` as a link of a chain.

    Put it first, before clipping and the optimizer. It makes the gradient
    perpendicular, not the update: momentum and the scaling of Adam turn it back a
    little, and weight decay points along the weights by design. Leaves to spare, such
    as normalization scales, go to `optax.masked`.

    Args:
        keep_norm: Scale each leaf back to the length of its whole gradient.

    Returns:
        A gradient transformation without state; its ``update`` needs ``params``.

    Raises:
        ValueError: In ``update``, if no ``params`` are given.

    Source:
        Prieto et al. (2025), arXiv:2501.04697.

    Example:
        >>> optimizer = optax.chain(orthogonal_gradient(), optax.adamw(1e-3))
    """

    def init(params: PyTree) -> optax.EmptyState:
        del params
        return optax.EmptyState()

    def update(
        updates: PyTree, state: Any, params: PyTree | None = None
    ) -> tuple[PyTree, Any]:
        if params is None:
            raise ValueError("orthogonal_gradient: params must be given to update.")
        params = moving(params, updates)
        rest = losses.orthogonal_gradient(updates, params, keep_norm=keep_norm)
        return rest, state

    return optax.GradientTransformation(init, update)
