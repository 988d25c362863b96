"""The four losses of the latent model, and what is counted beside them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32

from stabjax.losses import acyclicity, cross_block_correlation, weigh
from stabjax.models.causal.config import Config
from stabjax.models.causal.data_gradient import WatchedLoss, watch_gradients
from stabjax.models.causal.latent import ENCODERS, describe
from stabjax.models.causal.sweep import FIXED_THRESHOLD, THRESHOLDS, score_graph
from stabjax.models.modules import graph_of
from stabjax.numerics import masked_mean, safe_divide, standardize

__all__ = [
    "COMPONENTS",
    "GROUPS",
    "evaluation_thresholds",
    "make_loss",
    "make_terms",
    "mean_correlation",
    "reconstruction_error",
    "short_cycles",
]

COMPONENTS = ("reconstruction", "sparsity", "acyclicity", "disentanglement")
GROUPS = ("graph", "encoders", "decoder")


def make_loss(config: Config, nodes: int, epoch: int) -> WatchedLoss:
    """Return the loss: the weighted sum of the `COMPONENTS`.

    Beside them it reports the gradient of each one on each of the `GROUPS`, and the
    pairs between which no gradient can flow, see `watch_gradients`.

    Args:
        config: Weights, and which setting of every fix.
        nodes: Columns of the data.
        epoch: Steps per epoch.
    """
    weights = {
        "reconstruction": config.reconstruction_weight,
        "sparsity": config.sparsity_weight,
        "acyclicity": config.acyclicity_weight,
        "disentanglement": config.disentanglement_weight,
    }
    loss = weigh(make_terms(config, nodes, epoch), weights=weights)
    graph, *others = GROUPS
    return watch_gradients(
        loss,
        data="reconstruction",
        graph=graph,
        groups=tuple(others),
        every=config.gradient_norms_every,
    )


def make_terms(config: Config, nodes: int, epoch: int) -> Callable[..., Any]:
    """Return the function from a batch to the raw losses and the counts."""
    graph = graph_of(describe(config, nodes))

    def terms(
        params: Any, batch: Any, key: Any, *, step: Any
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        del key
        answer = nnx.merge(graph, params)(batch["values"])
        adjacency = answer.adjacency
        values = {
            "reconstruction": reconstruction_error(
                answer.reconstruction,
                batch["values"],
                batch["observed"],
                config.reduction,
            ),
            "sparsity": _sparsity(adjacency, config.reduction),
            "acyclicity": short_cycles(adjacency)
            if config.acyclicity == "seed"
            else acyclicity(adjacency),
            "disentanglement": mean_correlation(answer.codes)
            if config.disentanglement == "seed"
            else cross_block_correlation(
                answer.codes, sizes=(config.latent,) * len(ENCODERS)
            ),
        }
        counts = _counts(config, adjacency, batch, step, epoch)
        return values, jax.lax.stop_gradient(counts)

    terms.wants_step = True  # type: ignore[attr-defined]
    return terms


def evaluation_thresholds(config: Config) -> Float32[np.ndarray, " thresholds"]:
    """Return the thresholds on the adjacency that the setting chooses among."""
    if config.evaluation == "seed":
        return THRESHOLDS
    fixed = config.threshold if config.evaluation == "sound" else FIXED_THRESHOLD
    return np.array([fixed], np.float32)


def reconstruction_error(
    reconstruction: Float[Array, "batch time d"],
    values: Float[Array, "batch time d"],
    observed: Float[Array, "batch time d"],
    reduction: str,
) -> Float[Array, ""]:
    """Return the squared error of what was observed, reduced as the setting says.

    ``seed``: the mean over all entries, missing ones counted as right, so that the
    loss shrinks as more is missing. ``sound``: the mean over observed entries.
    ``before``: their sum.

    Args:
        reconstruction: By the model.
        values: The windows.
        observed: 1 or 0.
        reduction: "before", "seed" or "sound".
    """
    # Selected before it is squared: a gap in the data has no gradient either.
    squares = jnp.where(observed > 0.5, reconstruction - values, 0.0) ** 2
    if reduction == "before":
        return jnp.sum(squares)
    if reduction == "seed":
        return jnp.mean(squares)
    return masked_mean(squares, observed > 0.5)


def short_cycles(adjacency: Float[Array, "d d"]) -> Float[Array, ""]:
    """Return the seed's measure of cycles, ``max(0, tr((I + A/d)^3) - d)``.

    Written out it is ``3 tr(A)/d + 3 tr(A^2)/d^2 + tr(A^3)/d^3``: loops, and cycles of
    two and three edges. A longer cycle adds nothing and has no gradient.

    Args:
        adjacency: Entries >= 0.

    Source:
        Seed 001. Its rescaling of the power beyond a norm of 100 is left out: with a
        tenth of the entries kept it is not reached.
    """
    nodes = adjacency.shape[0]
    base = jnp.eye(nodes, dtype=adjacency.dtype) + adjacency / nodes
    return nnx.relu(jnp.trace(base @ base @ base) - nodes)


def mean_correlation(codes: Float[Array, "rows codes"]) -> Float[Array, ""]:
    """Return the seed's disentanglement: absolute correlations of pairs of blocks.

    For each two of the three blocks the mean of |C| over the whole correlation matrix
    of both, then their sum. The matrix holds a diagonal of ones and the correlations
    within a block, so that independent codes do not reach zero: the diagonal alone is
    3 / (2 codes per block).

    Args:
        codes: Three blocks of equal width side by side; a constant code counts as
            uncorrelated with everything, itself included (NaN in the original).
    """
    rows, columns = codes.shape
    width = columns // len(ENCODERS)
    scores = standardize(codes, axis=0, ddof=1, eps=1e-8)
    products = jnp.matmul(scores.T, scores, precision=jax.lax.Precision.HIGHEST)
    sizes = jnp.abs(products / (rows - 1))
    blocks = sizes.reshape(len(ENCODERS), width, len(ENCODERS), width).sum((1, 3))
    # Each block on the diagonal is in two pairs, each of the others in one.
    return (jnp.sum(blocks) + jnp.trace(blocks)) / (2 * width) ** 2


def _sparsity(adjacency: Float[Array, "d d"], reduction: str) -> Float[Array, ""]:
    sizes = jnp.abs(adjacency)
    return jnp.sum(sizes) if reduction == "before" else jnp.mean(sizes)


def _counts(
    config: Config, adjacency: Array, batch: Any, step: Any, epoch: int
) -> dict[str, Array]:
    """Score the graph as the setting says, and count what was observed."""
    truth = batch.get("truth")
    score = score_graph(adjacency, truth, evaluation_thresholds(config))
    missing = jnp.full((), jnp.nan, jnp.float32)
    empty = missing if truth is None else jnp.sum(truth)
    # At the first step of an epoch the parameters are those the last one ended with.
    every = epoch * config.epochs_between_evaluations
    due = (step > 0) & (step % every == 0)
    return {
        "val_f1": score.f1,
        "val_shd": score.shd,
        "val_shd_at_epoch": jnp.where(due, score.shd, missing),
        "shd_over_empty": safe_divide(score.shd, empty, floor=1.0),
        "edge_count": score.edges,
        "best_threshold": score.threshold,
        "observed": jnp.sum(batch["observed"]),
    }
