"""Sweep the loss weights as the seed advises, and look for an edge.

    python benchmarks/causal_grid.py [--seeds 3] [--epochs 8] [--out FILE]

Trains every point of both grids of the seed (27 and 9) on the synthetic sensors of
configs/causal_cpu.yaml, all points and seeds in one compiled program, and scores the
graphs against the true one. One JSON line per point.
"""

import argparse
import json
import pathlib
import sys
import time

import jax
import numpy as np

from stabjax.config import load, override
from stabjax.models.causal.dataset import load_dataset
from stabjax.models.causal.evaluation import graph_scores
from stabjax.models.causal.latent import kept_graph
from stabjax.models.causal.sweep import THRESHOLDS, score_graph
from stabjax.models.causal.weight_grid import GRIDS, train_grid

CONFIG = pathlib.Path(__file__).resolve().parent.parent / "configs" / "causal_cpu.yaml"


def scored(config, logits, truth):
    """Return the scores of a graph at the seed's best threshold."""
    adjacency = kept_graph(config, jax.numpy.asarray(logits))
    best = score_graph(adjacency, jax.numpy.asarray(truth, np.float32), THRESHOLDS)
    found = np.asarray(adjacency) > float(best.threshold)
    probabilities = 1.0 / (1.0 + np.exp(-logits.astype(float)))
    return graph_scores(probabilities, found, truth)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    base = load(CONFIG)
    config = override(base, base.compare.arms["seed"]).model
    datasets = [load_dataset(config, seed=seed) for seed in range(options.seeds)]
    for grid, points in GRIDS.items():
        started = time.process_time()
        fit = train_grid(config, datasets, points, epochs=options.epochs)
        seconds = round(time.process_time() - started, 1)
        for place, point in enumerate(points):
            scores = [
                scored(config, fit.logits[place, k], dataset.truth)
                for k, dataset in enumerate(datasets)
            ]
            line = {
                "grid": grid,
                "weights": point,
                "reconstruction": [
                    round(float(x), 5) for x in fit.reconstruction[place]
                ],
                **{
                    name: [round(float(s[name]), 4) for s in scores]
                    for name in ("edges", "shd", "f1", "chance_f1", "auroc")
                },
                "grid_cpu_seconds": seconds,
                "command": " ".join(["benchmarks/causal_grid.py", *sys.argv[1:]]),
                "jax": jax.__version__,
            }
            print(json.dumps(line), flush=True)
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
