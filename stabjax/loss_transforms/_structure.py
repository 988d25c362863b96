"""Which parameters a component can depend on at all, read from its backward pass."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from stabjax.core import groups as named
from stabjax.loss_transforms._backward import Pulls, run_with_backward
from stabjax.loss_transforms._groups import Groups, groups_of
from stabjax.loss_transforms._transformed import Call
from stabjax.types import Batch, Loss, Params

Pairs = list[tuple[str, str]]


def disconnected_pairs(pulls: Pulls, groups: Groups) -> Pairs:
    """Return the pairs of component and group between which no gradient can flow.

    A gradient is linear in its cotangent. Where the traced backward pass does not
    read the cotangent it is zero whatever the numbers are.
    """
    members = np.asarray(groups.of_leaf)
    pairs = []
    for name in pulls.names:
        # Traced only: nothing is computed.
        traced = jax.make_jaxpr(lambda c, n=name: pulls.one(n, c))(jnp.float32(1.0))
        for index, group in enumerate(groups.names):
            wanted = [bool(flag) for flag in members == index]
            _, (reads_cotangent,) = dce_jaxpr(traced.jaxpr, wanted)
            if not reads_cotangent:
                pairs.append((name, group))
    return pairs


def disconnected(
    loss_fn: Loss,
    params: Params,
    batch: Batch,
    key: Any,
    groups: Sequence[str] = (),
    *,
    model_state: Any = None,
    step: Any = 0,
) -> Pairs:
    """List the loss components that cannot train a group of parameters.

    The pairs for which ``grad_group weighted_component`` is zero by construction: the
    group does not enter the component, or only through `jax.lax.stop_gradient`,
    rounding, an index or the like. Nothing is computed; call it once before training.
    A pair that is not listed can still have a gradient that is zero in numbers, such
    as that of a mask of zeros: see `component_gradient_norms`.

    Args:
        loss_fn: A loss whose components ``weighted/<name>`` add up to it.
        params: Parameters, or their shapes.
        batch: A batch, or its shapes.
        key: A random key.
        groups: Path prefixes such as ``("encoder", "adjacency")``; leaves under none
            of them form the group ``rest``.
        model_state: For a stateful loss.
        step: For a loss that wants it.

    Returns:
        ``(component, group)`` in the order of the components; empty if each component
        can reach each group.

    Raises:
        ValueError: If a prefix fits no parameter.

    Source:
        Seed 001: its adjacency never entered the reconstruction, so that no choice of
        weights could have found an edge.

    Example:
        >>> from stabjax.losses import combine
        >>> loss_fn = combine({
        ...     "reconstruction": lambda p, b, k: jnp.sum((p["decoder"] - b) ** 2),
        ...     "sparsity": lambda p, b, k: jnp.sum(jnp.abs(p["adjacency"]))})
        >>> params = {"adjacency": jnp.ones(2), "decoder": jnp.ones(2)}
        >>> groups = ["adjacency", "decoder"]
        >>> disconnected(loss_fn, params, jnp.ones(2), jax.random.key(0), groups)
        [('reconstruction', 'adjacency'), ('sparsity', 'decoder')]
    """
    origin = "disconnected"
    named.checked(origin, groups, "groups")
    sorted_leaves = groups_of(origin, params, groups)
    keywords = {} if model_state is None else {"model_state": model_state}
    pairs: Pairs = []

    def look(params: Params, batch: Batch, key: Any, step: Any, keywords: Any) -> None:
        def forward(parts: Any, pulls: Pulls) -> tuple[Any, Any, Any]:
            pairs.extend(disconnected_pairs(pulls, sorted_leaves))
            return parts.weighted, parts.aux, None

        call = Call(params, batch, key, step, keywords)
        run_with_backward(origin, loss_fn, call, forward=forward)

    jax.eval_shape(look, params, batch, key, step, keywords)
    return pairs
