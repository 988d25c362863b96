"""For which optimizers a bounded gradient proves a finite state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from stabjax.core.distinct import distinct_results
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
    # One array for all leaves of a dtype, so that they share their fate.
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(params)}
    ones = {dtype: np.ones((len(_PROBES),), dtype) for dtype in dtypes}
    probes = {dtype: _probes(dtype) for dtype in dtypes}
    small = jax.tree.map(lambda x: ones[x.dtype], params)
    gradients = jax.tree.map(lambda x: probes[x.dtype], params)

    def outcome(gradients: PyTree, small: PyTree) -> PyTree:
        return optimizer.update(
            gradients, optimizer.init(small), small, value=jnp.float32(1.0)
        )

    try:
        return _all_finite(distinct_results(outcome, gradients, small))
    except Exception:  # whatever it misses here, it was not shown to be safe
        return False


def _probes(dtype: np.dtype) -> np.ndarray:
    if not jnp.issubdtype(dtype, jnp.inexact):
        return np.zeros((len(_PROBES),), dtype)
    largest = float(jnp.finfo(dtype).max)
    return np.clip(_PROBES, -largest, largest).astype(dtype)


def _all_finite(tree: PyTree) -> bool:
    leaves = [np.asarray(x) for x in jax.tree.leaves(tree) if is_inexact(x)]
    return all(bool(np.isfinite(leaf.astype(np.complex128)).all()) for leaf in leaves)


def _is_known(state: PyTree) -> bool:
    if isinstance(state, optax.MaskedState):
        return _is_known(state.inner_state)
    if isinstance(state, optax.PartitionState):
        return all(_is_known(inner) for inner in state.inner_states.values())
    if isinstance(state, tuple) and not hasattr(state, "_fields"):
        return all(_is_known(part) for part in state)
    return type(state).__name__ in _AT_MOST_QUADRATIC
