"""Fit a method of this package to several data sets, in a process of its own.

    python benchmarks/causal_own.py METHOD DATA.npz

As `causal_peers.py`, with ``data`` [data sets, rows, nodes]: all are learned at once,
and the CPU-seconds, compilation included, are those of all over their number.
"""

import importlib.metadata
import json
import sys
import time
from typing import Any

import numpy as np

from stabjax.models.causal.baselines import BASELINES
from stabjax.models.causal.graph_result import learned_graph
from stabjax.models.causal.order_search import search_order
from stabjax.models.causal.regression import covariance, regress_along
from stabjax.models.causal.search import fit_many
from stabjax.models.causal.structural_config import Structural


def structural(standardized: bool, **options: Any) -> Structural:
    if standardized:
        # A weight of 0.3 is much of a unit variance; the peers use 0.1 there too.
        return Structural(score="entropy", threshold=0.1, **options)
    return Structural(score="evlog", **options)


def ours(data: np.ndarray, standardized: bool) -> tuple[list, dict[str, Any]]:
    """Path-following, then the search of the order from there."""
    config = structural(standardized, stage_steps=500)
    return _from_fits(data, config)


def ours_gradient(data: np.ndarray, standardized: bool) -> tuple[list, dict[str, Any]]:
    """Path-following alone, cut at the threshold; with the steps that it needs."""
    return _from_fits(data, structural(standardized, stage_steps=3000, refine="none"))


def _from_fits(data: np.ndarray, config: Structural) -> tuple[list, dict[str, Any]]:
    fits = fit_many(data, config)
    found = [
        learned_graph(weights[0, 0], rows, config)
        for weights, rows in zip(fits.weights, data, strict=True)
    ]
    return [graph.weights for graph in found], {
        "options": config.model_dump(mode="json"),
        "acyclic_threshold": [round(graph.acyclic_threshold, 4) for graph in found],
        "threshold": [round(graph.threshold, 4) for graph in found],
        "moves": [graph.moves for graph in found],
        "refused": fits.refused.ravel().tolist(),
        "steps": fits.steps,
    }


def order_search(data: np.ndarray, standardized: bool) -> tuple[list, dict[str, Any]]:
    """Search the order from a random one: no gradient at all."""
    config = structural(standardized)
    found, moves = [], []
    for number, rows in enumerate(data):
        start = np.random.default_rng((number, 1)).permutation(rows.shape[1])
        search = search_order(rows, start, cost=config.order_cost)
        moves.append(search.moves)
        found.append(regress_along(search.order, covariance(rows), len(rows)))
    return found, {"moves": moves}


def baseline(name: str):
    def fit(data: np.ndarray, standardized: bool) -> tuple[list, dict[str, Any]]:
        del standardized
        return [BASELINES[name](rows, 2 * rows.shape[1]) for rows in data], {}

    return fit


METHODS = {
    "ours": ours,
    "ours_gradient": ours_gradient,
    "order_search": order_search,
    **{name: baseline(name) for name in BASELINES},
}


def main() -> None:
    method, path = sys.argv[1:]
    stored = np.load(path)
    data, standardized = stored["data"], bool(stored["standardized"])
    imports = time.process_time()
    weights, facts = METHODS[method](data, standardized)
    seconds = time.process_time() - imports
    record = {
        "weights": np.asarray(weights).tolist(),
        "cpu_seconds": round(seconds / len(data), 3),
        "import_cpu_seconds": round(imports / len(data), 3),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("jax", "numpy", "optax", "stabjax")
        },
        **facts,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
