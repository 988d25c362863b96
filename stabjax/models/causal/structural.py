"""The loss of the structural decoder: every node from its parents, along a path.

``X_t = X_t W + sum_k X_{t-k} V_k + noise``. Minimized is

    mu (score(W, V) + lambda (|W|_1 + |V|_1)) + h(W),  h = -log det(I - W*W / bound)

for falling ``mu`` and ``bound``; the weights of one stage start the next.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from stabjax.losses import WeighedLoss, acyclicity, weigh
from stabjax.models.causal.scores import equal_variance, log_abs_det, residual_score
from stabjax.models.causal.structural_config import Structural

__all__ = ["first_weights", "make_structural_loss", "without_loops"]

_SEED_WEIGHT = 1e-5  # of the seed's acyclicity penalty


def first_weights(nodes: int, lags: int) -> dict[str, Array]:
    """Return the empty graph, the one start that every acyclic graph is near.

    Returns:
        ``weights`` [nodes, nodes] and, with lags, ``lagged`` [lags, nodes, nodes].
    """
    params = {"weights": jnp.zeros((nodes, nodes), jnp.float32)}
    if lags:
        params["lagged"] = jnp.zeros((lags, nodes, nodes), jnp.float32)
    return params


def make_structural_loss(config: Structural) -> WeighedLoss:
    """Return the loss ``(params, batch, key, *, step) -> (loss, aux)``.

    Components: ``score``, ``sparsity`` (with its weight) and, unless there is no
    constraint, ``acyclicity``. The batch holds ``moments`` [nodes, nodes], or
    ``values`` and ``observed`` [rows, nodes] and, with lags, ``past`` [rows, lags,
    nodes]; and, to override the configured weight, a scalar ``sparsity``.

    Args:
        config: Score, path and constraint.

    Returns:
        A loss that is infinite where the constraint is not defined.
    """
    on_path = config.acyclicity == "sound"
    mu = _staged(config.mu, config.stage_steps) if on_path else 1.0
    weights: dict[str, Any] = {"score": mu, "sparsity": mu}
    if config.acyclicity != "before":
        weights["acyclicity"] = 1.0 if on_path else _SEED_WEIGHT
    return weigh(_make_terms(config), weights=weights)


def _staged(values: tuple[float, ...], steps: int) -> Callable[[Any], Array]:
    """Return the schedule that takes one value per stage and keeps the last."""
    table = np.asarray(values, np.float32)

    def value(step: Any) -> Array:
        return jnp.asarray(table)[jnp.minimum(step // steps, len(table) - 1)]

    return value


def _make_terms(config: Structural) -> Callable[..., Any]:
    bound = _staged(config.bounds, config.stage_steps)

    def terms(
        params: dict[str, Array], batch: dict[str, Array], key: Array, *, step: Any
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        del key
        weights = without_loops(params["weights"])
        lagged = params.get("lagged")
        size = jnp.sum(jnp.abs(weights))
        if lagged is not None:
            size += jnp.sum(jnp.abs(lagged))
        values = {
            "score": _score(config, weights, lagged, batch),
            "sparsity": batch.get("sparsity", config.sparsity) * size,
        }
        if config.acyclicity == "seed":
            values["acyclicity"] = _short_cycles(weights)
        elif config.acyclicity == "sound":
            inside = weights / jnp.sqrt(bound(step))
            values["acyclicity"] = acyclicity(inside, method="log_determinant")
        large = jnp.abs(weights) > config.threshold
        aux = {
            "edge_count": jnp.sum(large).astype(jnp.float32),
            "largest_weight": jnp.max(jnp.abs(weights)),
        }
        return values, jax.lax.stop_gradient(aux)

    terms.wants_step = True  # type: ignore[attr-defined]
    return terms


def without_loops(weights: Float[Array, "nodes nodes"]) -> Float[Array, "nodes nodes"]:
    """Return the weights with a diagonal of zeros, which has no gradient."""
    return jnp.where(jnp.eye(weights.shape[0], dtype=bool), 0.0, weights)


def _score(
    config: Structural,
    weights: Float[Array, "nodes nodes"],
    lagged: Float[Array, "lags nodes nodes"] | None,
    batch: dict[str, Array],
) -> Float[Array, ""]:
    if "moments" in batch:
        keep = jnp.eye(weights.shape[0], dtype=weights.dtype) - weights
        variances = jnp.sum(keep * (batch["moments"] @ keep), axis=0)
    else:
        values, observed = batch["values"], batch["observed"]
        residuals = values - values @ weights
        if lagged is not None:
            residuals -= jnp.einsum("tki,kij->tj", batch["past"], lagged)
        if config.needs_rows:
            shape = residual_score(residuals, observed, config.score)
            return shape - log_abs_det(weights)
        counts = jnp.maximum(jnp.sum(observed, axis=0), 1.0)
        squares = jnp.where(observed > 0.0, residuals**2, 0.0)
        variances = jnp.sum(squares, axis=0) / counts
    if config.score == "ev":
        return equal_variance(variances, logarithm=False)
    return equal_variance(variances, logarithm=True) - log_abs_det(weights)


def _short_cycles(weights: Float[Array, "nodes nodes"]) -> Float[Array, ""]:
    """Return ``tr((I + |W|/d)^3) - d``: the seed's measure, blind to long cycles."""
    share = jnp.abs(weights) / weights.shape[0]
    square = share @ share
    return 3.0 * jnp.trace(square) + jnp.sum(square * share.T)
