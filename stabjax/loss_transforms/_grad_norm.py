"""Weights that keep the components learning at one pace."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.core import groups as named
from stabjax.core.running import count_where
from stabjax.loss_transforms._backward import Pulls, Weighted, run_with_backward
from stabjax.loss_transforms._groups import (
    norm_of_leaves,
    shared_leaves,
)
from stabjax.loss_transforms._transformed import (
    Call,
    Parts,
    TransformedLoss,
    WithTransform,
    rebuild,
    required_names,
    split_state,
)
from stabjax.numerics._check import check_range
from stabjax.types import Aux, Count, Loss, Scalar

# Of a component that starts at zero the share that is left has no meaning.
_LEAST = 1e-30


class GradNormState(NamedTuple):
    """Weights of the components, in their order.

    Attributes:
        log_weights: Logarithms of the weights, which add up to their number.
        initial: Absolute value of each component in the first applied step [loss].
        seen: Steps that moved the weights or set ``initial`` [steps].
    """

    log_weights: Float[Array, " components"]
    initial: Float[Array, " components"]
    seen: Count


def grad_norm(
    loss_fn: Loss,
    shared: Sequence[str] = (),
    *,
    strength: float = 1.5,
    learning_rate: float = 0.025,
) -> TransformedLoss:
    """Weight the components so that their gradients are alike on shared parameters.

    ``sum_i w_i weighted_i``. With the norms ``G_i = w_i norm(grad_shared weighted_i)``,
    their mean ``G``, the share of loss left ``l_i = |weighted_i| / initial_i`` and
    ``r_i = l_i / mean(l)``, the distance ``sum_i |G_i - G r_i**strength|``, target held
    constant, is descended after each step:
    ``log w_i -= learning_rate (G_i / G) sign(G_i - G r_i**strength)``, then
    ``sum_i w_i`` is set to the number of components.

    That is the paper's gradient taken in the logarithm of the weight and in units of
    the mean norm. In the weight itself a step can make a weight negative, and its size
    depends on the unit of the loss.

    The weights are model state: a refused step does not move them, and neither does a
    norm that is not finite. Start with ``train.init(params, batch,
    model_state=loss_fn.init_model_state(model_state))``. Costs one backward pass per
    component down to the shared parameters.

    Args:
        loss_fn: A loss whose components are known: from `weigh`, `combine` or
            `name_components`. They should be positive.
        shared: Path prefixes of the parameters to compare gradients on, for example
            the last shared layer; all by default.
        strength: How much a component that learns slower is favored, in [0, 10].
        learning_rate: Step of the logarithms, in [0, 1].

    Returns:
        A loss whose ``weighted/<name>`` carry the weights, with the metrics
        ``weight/<name>`` and ``shared_norm/<name>``, which is ``G_i``. Its model state
        is a `WithTransform` of the model state inside and a `GradNormState`.

    Raises:
        ValueError: If an option is out of range, the components are not known, or,
            when called, if a prefix fits no parameter or the state is another.

    Gradient:
        ``sum_i w_i grad weighted_i``; the weights are held constant.

    Source:
        Chen et al. (2018), GradNorm, arXiv:1711.02257, algorithm 1.

    Example:
        >>> from stabjax.losses import combine
        >>> loss_fn = grad_norm(combine({
        ...     "large": lambda p, b, k: 9.0 * p, "small": lambda p, b, k: p}))
        >>> state = loss_fn.init_model_state()
        >>> for _ in range(100):
        ...     loss, aux = loss_fn(
        ...         jnp.float32(1.0), None, jax.random.key(0), model_state=state)
        ...     state = aux["model_state"]
        >>> round(float(aux["weight/large"]), 1), round(float(aux["weight/small"]), 1)
        (0.2, 1.8)
    """
    origin = "grad_norm"
    named.checked(origin, shared, "shared")
    check_range(origin, "strength", strength, low=0.0, high=10.0)
    check_range(origin, "learning_rate", learning_rate, low=0.0, high=1.0)
    names = required_names(origin, loss_fn)

    def wrap_state(model_state: Any) -> WithTransform:
        state = GradNormState(
            log_weights=jnp.zeros((len(names),), jnp.float32),
            initial=jnp.zeros((len(names),), jnp.float32),
            seen=jnp.zeros((), jnp.int32),
        )
        return WithTransform(model_state, state)

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        state, call = split_state(origin, call)
        members = shared_leaves(origin, call.params, shared)

        def forward(parts: Parts, pulls: Pulls) -> tuple[Weighted, Any, Any]:
            norms = [norm_of_leaves(pulls.one(name), members) for name in names]
            return parts.weighted, (parts.aux, jnp.stack(norms)), None

        weighted, (aux, norms) = run_with_backward(
            origin, loss_fn, call, forward=forward
        )
        values = jax.lax.stop_gradient(jnp.stack([weighted[n] for n in names]))
        weights = jnp.exp(state.log_weights)
        metrics = {}
        for index, name in enumerate(names):
            weighted[name] = weights[index] * weighted[name]
            metrics[f"weight/{name}"] = weights[index]
            metrics[f"shared_norm/{name}"] = weights[index] * norms[index]
        state = _moved(state, values, norms, strength, learning_rate)
        model = aux.pop("model_state", None)
        metrics["model_state"] = WithTransform(model, state)
        return rebuild(origin, weighted, aux, metrics)

    return TransformedLoss(loss_fn, evaluate, names, wrap_state=wrap_state)


def _moved(
    state: GradNormState,
    values: Float[Array, " components"],
    norms: Float[Array, " components"],
    strength: float,
    learning_rate: float,
) -> GradNormState:
    size = jnp.abs(values)
    initial = jnp.where(state.seen == 0, size, state.initial)
    left = size / jnp.maximum(initial, _LEAST)
    scaled = jnp.exp(state.log_weights) * norms
    mean = jnp.mean(scaled)
    target = mean * (left / jnp.mean(left)) ** strength
    step = learning_rate * (scaled / mean) * jnp.sign(scaled - target)
    moved = state.log_weights - step
    moved -= jax.nn.logsumexp(moved) - math.log(norms.shape[0])
    fine = jnp.all(jnp.isfinite(moved) & jnp.isfinite(size))
    return GradNormState(
        log_weights=jnp.where(fine, moved, state.log_weights),
        initial=jnp.where(fine, initial, state.initial),
        seen=count_where(state.seen, fine),
    )
