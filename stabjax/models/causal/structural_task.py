"""The structural decoder as a task: step, start, batches, scores."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stabjax.models.causal.config import Config
from stabjax.models.causal.dataset import Dataset
from stabjax.models.causal.evaluation import baseline_scores, fit_scores, graph_scores
from stabjax.models.causal.graph_files import graph_artifacts
from stabjax.models.causal.graph_result import LearnedGraph, learned_graph
from stabjax.models.causal.scores import (
    NEEDS_RESIDUALS,
    equal_variance,
    residual_score,
)
from stabjax.models.causal.search import structural_step
from stabjax.models.causal.structural import first_weights
from stabjax.models.causal.structural_config import Structural
from stabjax.models.causal.structural_data import Rows, load_rows, structural_batch
from stabjax.models.task import Task
from stabjax.train_step import SnapshotMemory, TrainState

__all__ = ["build_structural", "graph_of_state", "held_out_scores"]


def build_structural(
    config: Config,
    data: Dataset,
    *,
    optimizer: Any,
    guards: Sequence[Any] | None,
    window: int,
    seed: int,
    snapshot_every: int | None = None,
    snapshot_memory: SnapshotMemory = "device",
) -> Task:
    """Build the task of the structural decoder.

    Args:
        config: The model's configuration; ``structural`` is what counts here.
        data: The table, split and scaled.
        optimizer: An optax transformation.
        guards: Guards of the step; None for the plain, unguarded one. See
            `stabjax.models.causal.search.structural_step` for the one that is added.
        window: Rows of telemetry kept on the device [steps].
        seed: Draws the rows of a step, if not all are taken.
        snapshot_every: Steps between good states kept for a rollback.
        snapshot_memory: Where they lie, see `stabjax.train_step.make_train_step`.

    Raises:
        ValueError: If a part of the table is too short for the lags.
    """
    settings = config.structural
    rows = load_rows(data, "train", settings.lags)
    held_out = load_rows(data, "validation", settings.lags)
    train = structural_step(
        settings,
        optimizer,
        guards=guards,
        watch_every=config.gradient_norms_every,
        window=window,
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )
    known = baseline_scores(data)

    @functools.lru_cache(maxsize=1)
    def whole_batch() -> dict[str, np.ndarray]:
        return structural_batch(rows, settings, seed=seed, position=0)

    def batch_at(position: int) -> dict[str, np.ndarray]:
        if settings.rows_per_step:
            return structural_batch(rows, settings, seed=seed, position=position)
        return whole_batch()

    def init(key: Any) -> TrainState:
        del key  # the start is the empty graph, whatever the seed
        return train.init(first_weights(data.nodes, settings.lags), batch_at(0))

    def evaluate(state: TrainState) -> dict[str, float]:
        graph = graph_of_state(state, settings, rows)
        core = train.guard_states(state)
        return (
            graph_scores(np.abs(graph.weights), graph.weights != 0.0, data.truth)
            | _gradient_scores(state, graph, data.truth)
            | held_out_scores(graph, settings, held_out)
            | {"refused_steps": float(core.step - core.applied)}
            | known
        )

    def artifacts(state: TrainState) -> dict[str, str | bytes]:
        graph = graph_of_state(state, settings, rows)
        # What is left after pruning is an edge, however small.
        return graph_artifacts(graph.weights, data.names, 0.0, data.truth)

    return Task(
        train=train,
        init=init,
        batch_at=batch_at,
        evaluate=evaluate,
        artifacts=artifacts,
    )


def graph_of_state(state: TrainState, config: Structural, rows: Rows) -> LearnedGraph:
    """Return the acyclic graph of a train state; see `learned_graph`.

    Raises:
        ValueError: If a weight is not finite.
    """
    params = jax.device_get(state.params)
    return learned_graph(
        params["weights"],
        rows.values,
        config,
        lagged=params.get("lagged"),
        past=rows.past if config.lags else None,
    )


def _gradient_scores(
    state: TrainState, graph: LearnedGraph, truth: np.ndarray | None
) -> dict[str, float]:
    """Score what the gradient alone found, and say how it was cut."""
    ranking = np.abs(jax.device_get(state.params["weights"]))
    found = graph_scores(ranking, graph.thresholded != 0.0, truth)
    kept = ("edges", "shd", "f1", "auroc", "auprc")
    scores = {f"gradient_{name}": found[name] for name in kept if name in found}
    return scores | {
        "acyclic_threshold": graph.acyclic_threshold,
        "used_threshold": graph.threshold,
        "fixed_threshold_is_acyclic": float(graph.fixed_is_acyclic),
        "order_moves": float(graph.moves),
        "lagged_edges": float(np.sum(graph.lagged != 0.0)),
    }


def held_out_scores(
    graph: LearnedGraph, config: Structural, rows: Rows
) -> dict[str, float]:
    """Judge a graph by rows it was not learned from; needs no true graph.

    Args:
        graph: The learned graph.
        config: Whose score.
        rows: Rows of the validation part.

    Returns:
        ``val_score``: the configured score of the graph [nats per row], constants
        left out; for ``"entropy"``, which is no density and overrates sharp peaks,
        that of ``"student_t"``; ``val_score_empty``: of the graph without edges;
        ``val_gain``: what the edges are worth, positive if they help; ``val_r2``:
        share of variance that parents and past explain.
    """
    explained = rows.values @ graph.weights
    if len(graph.lagged):
        explained = explained + np.einsum("tki,kij->tj", rows.past, graph.lagged)
    value = _score(config, rows.values - explained, rows.observed)
    empty = _score(config, rows.values, rows.observed)
    return {
        "val_score": value,
        "val_score_empty": empty,
        "val_gain": empty - value,
        **fit_scores(explained, rows.values, rows.observed),
    }


def _score(config: Structural, residuals: np.ndarray, observed: np.ndarray) -> float:
    seen = observed.astype(np.float32)
    density = "student_t" if config.score == "entropy" else config.score
    return float(_score_of(residuals.astype(np.float32), seen, density))


@functools.partial(jax.jit, static_argnums=2)
def _score_of(errors: jax.Array, seen: jax.Array, score: str) -> jax.Array:
    if score in NEEDS_RESIDUALS:
        return residual_score(errors, seen, score)
    counts = jnp.maximum(jnp.sum(seen, axis=0), 1.0)
    variances = jnp.sum(jnp.where(seen > 0.0, errors**2, 0.0), axis=0) / counts
    return equal_variance(variances, logarithm=score == "evlog")
