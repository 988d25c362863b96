"""Gradients of components that do not undo each other."""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from stabjax.loss_transforms._backward import Pulls, Weighted, run_with_backward
from stabjax.loss_transforms._gram import Gram, gram
from stabjax.loss_transforms._transformed import (
    Call,
    Parts,
    TransformedLoss,
    names_of,
    rebuild,
)
from stabjax.losses._weigh import merge_aux
from stabjax.types import Aux, Loss, Params, Scalar

_OWN = zlib.crc32(b"pcgrad") & 0x7FFFFFFF


def pcgrad(loss_fn: Loss, *, order: str = "random") -> TransformedLoss:
    """Project the gradient of each component off those that it conflicts with.

    For each component i, for all j != i in order, while ``<h_i, g_j> < 0``:
    ``h_i -= g_j <h_i, g_j> / <g_j, g_j>``, from ``h_i = g_i`` on. The gradient is
    ``sum_i h_i``. The loss itself stays as it is.

    The h are sums of the g, so that only the inner products of the g are needed: one
    backward pass per component for those, and one more for the gradient. Without a
    conflict the gradient is that of the plain loss, bit for bit. Inner products are
    float32 and do not overflow.

    Args:
        loss_fn: A loss whose components ``weighted/<name>`` add up to it.
        order: ``"random"``: for each i an order of the j drawn from the key of the
            step, as in the paper. ``"named"``: always that of the components.

    Returns:
        A loss with the metric ``pcgrad/conflicts``, the number of pairs of components
        whose gradients point against each other. No state.

    Raises:
        ValueError: If ``order`` is another.

    Gradient:
        ``sum_i h_i``, for reverse mode and the parameters only. Norms of two
        components more than 1e38 apart make it NaN, which refuses the step.

    Source:
        Yu et al. (2020), Gradient surgery, arXiv:2001.06782, algorithm 1.

    Example:
        >>> from stabjax.losses import combine
        >>> loss_fn = combine(
        ...     {"a": lambda p, b, k: p[0] + p[1], "b": lambda p, b, k: -p[0]})
        >>> grad_fn = jax.grad(pcgrad(loss_fn), has_aux=True)
        >>> gradient, aux = grad_fn(jnp.zeros(2), None, jax.random.key(0))
        >>> gradient.tolist(), float(aux["pcgrad/conflicts"])
        ([-0.5, 1.5], 1.0)
    """
    origin = "pcgrad"
    if order not in ("named", "random"):
        raise ValueError(f"{origin}: order must be 'named' or 'random', got {order!r}.")

    def evaluate(call: Call) -> tuple[Scalar, Aux]:
        # A key of its own: the noise of the loss stays what it is without projection.
        own = jax.random.fold_in(call.key, _OWN) if order == "random" else None

        def forward(parts: Parts, pulls: Pulls) -> tuple[Weighted, Any, Any]:
            products = gram([pulls.one(name) for name in pulls.names])
            mixing = _mixing(products, _orders(len(pulls.names), own))
            against = jnp.triu(products.products < 0.0, k=1)
            metrics = {"pcgrad/conflicts": jnp.sum(against, dtype=jnp.float32)}
            return parts.weighted, merge_aux(origin, parts.aux, metrics), mixing

        weighted, aux = run_with_backward(
            origin, loss_fn, call, forward=forward, backward=_backward
        )
        return rebuild(origin, weighted, aux)

    return TransformedLoss(loss_fn, evaluate, names_of(loss_fn))


def _orders(count: int, key: Any) -> Int[Array, "components components"]:
    """Return for each component the order in which it meets the others."""
    named = jnp.tile(jnp.arange(count, dtype=jnp.int32), (count, 1))
    if key is None:
        return named
    return jax.random.permutation(key, named, axis=1, independent=True)


def _mixing(
    products: Gram, orders: Int[Array, "components components"]
) -> Float[Array, "components components"]:
    """Return ``a`` with ``h_i = sum_j a_ij g_j``."""
    count = orders.shape[0]
    inner = products.products
    rows = jnp.arange(count)
    mixing = jnp.eye(count, dtype=jnp.float32)
    for turn in range(count):
        other = orders[:, turn]
        dots = jnp.sum(mixing * inner[other], axis=1)
        square = inner[other, other]
        # False for NaN; a zero gradient conflicts with none.
        conflict = (dots < 0.0) & (other != rows) & (square > 0.0)
        share = jnp.where(conflict, dots / jnp.where(conflict, square, 1.0), 0.0)
        mixing = mixing.at[rows, other].add(-share)
    ratio = products.units[:, None] / products.units[None, :]
    return jnp.where(mixing == 0.0, 0.0, mixing * ratio)


def _backward(mixing: Array, pulls: Pulls, cotangents: Weighted) -> Params:
    mixed = jnp.zeros((len(pulls.names),), jnp.float32)
    for row, name in enumerate(pulls.names):
        if name in cotangents:
            mixed += cotangents[name] * mixing[row]
    return pulls.all(dict(zip(pulls.names, mixed, strict=True)))
