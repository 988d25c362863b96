"""For which optimizers a bounded gradient proves a finite state."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from stabjax.core.layout import is_inexact

# Linear or quadratic in the gradient, elementwise. Everything else is checked.
_AT_MOST_QUADRATIC = frozenset(
    {
        "EmptyState",
        "ScaleByAdamState",
        "ScaleByLionState",
        "ScaleByRmsState",
        "ScaleByRmsWithCountState",
        "ScaleByScheduleState",
        "ScaleState",
        "TraceState",
    }
)


def holds_squares(opt_state: PyTree) -> bool:
    """Return whether the state stays finite if every gradient element's square does.

    True for optimizers made of known optax parts, each at most quadratic in the
    gradient, whose state has the range of float32.

    Args:
        opt_state: State of an optimizer; only types and dtypes are looked at.

    Returns:
        Whether bounding the gradient is enough.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> holds_squares(optax.adamw(1e-3).init({"w": jnp.zeros(3)}))
        True
    """
    wide = all(
        float(jnp.finfo(leaf.dtype).max) > 1e38
        for leaf in jax.tree.leaves(opt_state)
        if is_inexact(leaf)
    )
    return wide and _is_known(opt_state)


def _is_known(state: PyTree) -> bool:
    if isinstance(state, optax.MaskedState):
        return _is_known(state.inner_state)
    if isinstance(state, optax.PartitionState):
        return all(_is_known(inner) for inner in state.inner_states.values())
    if isinstance(state, tuple) and not hasattr(state, "_fields"):
        return all(_is_known(part) for part in state)
    return type(state).__name__ in _AT_MOST_QUADRATIC
