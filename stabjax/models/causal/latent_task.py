"""The latent model as a task: step, start, batches, scores, files."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from stabjax.core.haste import jit_once
from stabjax.models.causal.config import Config
from stabjax.models.causal.dataset import Dataset, steps_per_epoch, training_batch
from stabjax.models.causal.evaluation import (
    answer_rows,
    baseline_scores,
    fit_scores,
    graph_scores,
)
from stabjax.models.causal.graph_files import graph_artifacts
from stabjax.models.causal.latent import LatentModel, kept_graph
from stabjax.models.causal.objective import evaluation_thresholds, make_loss
from stabjax.models.causal.sweep import GraphScore, score_graph
from stabjax.models.causal.training_log import (
    EpochClock,
    epoch_of,
    first_learning_rate,
)
from stabjax.models.modules import initial_parameters
from stabjax.models.task import Task
from stabjax.train_step import SnapshotMemory, make_train_step

__all__ = ["build_latent"]


def build_latent(
    config: Config,
    dataset: Dataset,
    *,
    optimizer: Any,
    guards: Sequence[Any] | None,
    window: int,
    seed: int,
    snapshot_every: int | None,
    snapshot_memory: SnapshotMemory,
) -> Task:
    """Build the task of the latent decoder; arguments as in `build`."""
    nodes, epoch = dataset.nodes, steps_per_epoch(dataset, config)
    train = make_train_step(
        make_loss(config, nodes, epoch),
        optimizer,
        guards=guards,
        # The log of an epoch is made from its rows.
        window=max(window, epoch),
        snapshot_every=snapshot_every,
        snapshot_memory=snapshot_memory,
    )
    clock = EpochClock(epoch)

    def batch_at(position: int) -> dict[str, Any]:
        clock.see(position)
        return training_batch(dataset, config, seed=seed, position=position)

    def init(key: Any) -> Any:
        params = first_parameters(config, nodes)(key)
        return train.init(
            params, training_batch(dataset, config, seed=seed, position=0)
        )

    known = baseline_scores(dataset)
    rate = first_learning_rate(optimizer)

    truth = None if dataset.truth is None else dataset.truth.astype(np.float32)

    def judged(adjacency: Any) -> GraphScore:
        score = score_graph(
            jnp.asarray(adjacency),
            None if truth is None else jnp.asarray(truth),
            evaluation_thresholds(config),
        )
        return jax.device_get(score)

    def evaluate(state: Any) -> dict[str, float]:
        rows = dataset.rows("validation")
        values, observed = dataset.values[rows], dataset.observed[rows]
        answer = jax.device_get(answer_rows(config, nodes, state.params, values))
        graph = judged(answer.adjacency)
        entry = epoch_of(
            state,
            steps=epoch,
            guarded=guards is not None,
            rate=rate,
            seconds=clock.seconds(int(train.guard_states(state).step)),
            graph=graph,
        )
        found = answer.adjacency > graph.threshold
        return (
            entry.as_scores()
            | fit_scores(answer.reconstruction[0], values, observed)
            | graph_scores(edge_probabilities(state.params), found, dataset.truth)
            | known
        )

    def artifacts(state: Any) -> dict[str, str | bytes]:
        kept = kept_graph(config, state.params["graph"]["logits"])
        threshold = float(judged(kept).threshold)
        return graph_artifacts(
            np.asarray(kept), dataset.names, threshold, dataset.truth
        )

    return Task(
        train=train,
        init=init,
        batch_at=batch_at,
        evaluate=evaluate,
        artifacts=artifacts,
    )


def edge_probabilities(params: Any) -> np.ndarray:
    """Return the sigmoid of every logit, kept or not."""
    logits = np.asarray(params["graph"]["logits"], float)
    return 1.0 / (1.0 + np.exp(-logits))


@functools.cache
def first_parameters(config: Config, nodes: int) -> Callable[[Any], Any]:
    """Return the jitted function from a key to the parameters.

    It runs once, so on CPU it is compiled in haste.
    """

    def draw(key: Any) -> Any:
        return initial_parameters(LatentModel(config, nodes, nnx.Rngs(params=key)))

    return jit_once(draw)
