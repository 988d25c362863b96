"""How good a graph is, beside what anyone gets for free; and how good the fit."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from stabjax.models.causal.baselines import BASELINES, chance
from stabjax.models.causal.config import Config
from stabjax.models.causal.dataset import Dataset
from stabjax.models.causal.latent import Answer, describe
from stabjax.models.causal.metrics import (
    auprc,
    auroc,
    edge_scores,
    r2_sortability,
    varsortability,
)
from stabjax.models.modules import graph_of

__all__ = ["answer_rows", "baseline_scores", "fit_scores", "graph_scores"]


def graph_scores(
    scores: Float[np.ndarray, "d d"],
    found: Bool[np.ndarray, "d d"],
    truth: Bool[np.ndarray, "d d"] | None,
) -> dict[str, float]:
    """Compare a graph with the true one; the diagonal is left out.

    Args:
        scores: Larger means more likely an edge.
        found: The edges.
        truth: The true graph, or None.

    Returns:
        ``edges``; ``shd`` (pairs of nodes that differ; a reversed edge counts once),
        ``f1``, ``precision`` and ``recall`` of the edges; ``auroc`` and ``auprc`` of
        the scores, without a threshold; and of as many random edges ``chance_shd``
        and ``chance_f1``. Without a truth ``edges`` alone: nothing else is known.
    """
    nodes = len(scores)
    off = ~np.eye(nodes, dtype=bool)
    edges = int(np.sum(found & off))
    if truth is None:
        return {"edges": float(edges)}
    compared = edge_scores(found, truth)
    guess = chance(edges, int(np.sum(truth & off)), nodes)
    return {
        "edges": float(edges),
        "shd": float(compared.shd),
        "f1": compared.f1,
        "precision": compared.precision,
        "recall": compared.recall,
        "auroc": auroc(scores, truth),
        "auprc": auprc(scores, truth),
        "chance_shd": guess.shd,
        "chance_f1": guess.f1,
    }


def baseline_scores(dataset: Dataset) -> dict[str, float]:
    """Score what is had for free on the training rows, as the model sees them.

    Args:
        dataset: The data.

    Returns:
        Per baseline ``<name>_shd``, ``<name>_f1`` and ``<name>_auroc``; the correlation
        graph is told how many edges there are. ``varsortability`` and
        ``r2_sortability`` of the model's inputs, and ``raw_varsortability`` of the
        table in its own units. Empty if the true graph is not known.
    """
    truth = dataset.truth
    if truth is None:
        return {}
    rows = dataset.rows("train")
    inputs = dataset.values[rows].astype(float)
    raw = np.where(dataset.observed, dataset.raw, np.nan)[rows]
    raw = np.where(np.isnan(raw), np.nanmean(raw, axis=0), raw)
    found: dict[str, float] = {
        "true_edges": float(truth.sum()),
        "varsortability": varsortability(inputs, truth),
        "r2_sortability": r2_sortability(inputs, truth),
        "raw_varsortability": varsortability(raw, truth),
    }
    for name, baseline in BASELINES.items():
        graph = baseline(inputs, int(truth.sum()))
        compared = edge_scores(graph, truth)
        found[f"{name}_shd"] = float(compared.shd)
        found[f"{name}_f1"] = compared.f1
        found[f"{name}_auroc"] = auroc(np.abs(graph), truth)
    return found


def fit_scores(
    reconstruction: Float[np.ndarray, "rows d"],
    values: Float[np.ndarray, "rows d"],
    observed: Bool[np.ndarray, "rows d"],
) -> dict[str, float]:
    """Return ``val_r2``, the explained share of variance, mean over columns.

    It has no unit, so that runs on raw and on standardized data can be compared; their
    losses cannot. A column without two different observed values is left out.

    Args:
        reconstruction: Of the validation rows.
        values: The rows.
        observed: What of them was observed.
    """
    shares = []
    for column in range(values.shape[1]):
        here = observed[:, column]
        true = values[here, column].astype(float)
        spread = float(np.sum((true - true.mean()) ** 2)) if len(true) else 0.0
        if spread > 0.0:
            error = float(np.sum((reconstruction[here, column] - true) ** 2))
            shares.append(1.0 - error / spread)
    return {"val_r2": float(np.mean(shares)) if shares else math.nan}


@functools.partial(jax.jit, static_argnums=(0, 1))
def answer_rows(config: Config, nodes: int, params: Any, rows: Array) -> Answer:
    """Return the latent model's answer to rows [rows, d], as one long window."""
    model = nnx.merge(graph_of(describe(config, nodes)), params)
    return model(jnp.asarray(rows)[None])
