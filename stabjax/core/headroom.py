"""For which optimizers a bounded gradient proves a finite state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from stabjax.core.layout import is_inexact

# An element of at most 2**62 has a square of at most 2e37, in the range of float32.
LARGEST_SQUARABLE = 2.0**62
_PROBES = (0.0, 1.0, -LARGEST_SQUARABLE, LARGEST_SQUARABLE)
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


def survives_probe(
    optimizer: optax.GradientTransformationExtraArgs, params: PyTree
) -> bool:
    """Return whether the optimizer stays finite at the largest gradient let through.

    A stateless part does not say what it computes. So the optimizer is tried, while
    the step is traced, on four elements per leaf: at no gradient, at a usual one, and
    at both ends of the range. An optimizer that cannot run on such a tree fails.

    Args:
        optimizer: The inner optimizer, elementwise as `holds_squares` knows it.
        params: Parameters, of which the structure and the dtypes count.

    Returns:
        Whether updates and state were finite.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> broken = optax.stateless(lambda g, p: jax.tree.map(jnp.log, g))
        >>> params = {"w": jnp.zeros(3)}
        >>> survives_probe(optax.with_extra_args_support(broken), params)
        False
    """
    with jax.ensure_compile_time_eval():
        # All of one shape: each operation is then compiled once, not once per shape.
        small = jax.tree.map(lambda x: jnp.ones((len(_PROBES),), x.dtype), params)
        gradients = jax.tree.map(_probes, small)
        try:
            outcome = optimizer.update(
                gradients, optimizer.init(small), small, value=jnp.float32(1.0)
            )
        except Exception:  # whatever it misses here, it was not shown to be safe
            return False
        return _all_finite(outcome)


def _probes(leaf: jax.Array) -> jax.Array:
    if not is_inexact(leaf):
        return jnp.zeros_like(leaf)
    largest = float(jnp.finfo(leaf.dtype).max)
    return jnp.asarray(np.clip(_PROBES, -largest, largest), leaf.dtype)


def _all_finite(tree: PyTree) -> bool:
    leaves = [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]
    return all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in leaves)


def _is_known(state: PyTree) -> bool:
    if isinstance(state, optax.MaskedState):
        return _is_known(state.inner_state)
    if isinstance(state, optax.PartitionState):
        return all(_is_known(inner) for inner in state.inner_states.values())
    if isinstance(state, tuple) and not hasattr(state, "_fields"):
        return all(_is_known(part) for part in state)
    return type(state).__name__ in _AT_MOST_QUADRATIC
