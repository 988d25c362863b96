"""Fit one public method to one data set, in a process of its own; no JAX needed.

    python benchmarks/causal_peers.py METHOD DATA.npz

``DATA.npz`` holds ``data`` [rows, nodes] and ``standardized``. One JSON line goes to
standard output: the weights, the CPU-seconds of the fit and of the imports, versions.
Settings are those of the methods' authors; see `SETTINGS`.
"""

import contextlib
import importlib
import importlib.metadata
import json
import sys
import time
import warnings

import numpy as np

# (raw data, standardized data): a weight of 0.3 is much of a unit variance.
SETTINGS = {
    "dagma": ({"lambda1": 0.05, "threshold": 0.3}, {"lambda1": 0.02, "threshold": 0.1}),
    "notears": ({"lambda1": 0.1, "threshold": 0.3}, {"lambda1": 0.1, "threshold": 0.1}),
    "golem": ({"threshold": 0.3}, {"threshold": 0.3}),
    "direct_lingam": ({}, {}),
}
PACKAGES = {
    "dagma": "dagma",
    "notears": "gcastle",
    "golem": "gcastle",
    "direct_lingam": "lingam",
}


def _dagma(data, lambda1, threshold):
    from dagma.linear import DagmaLinear

    model = DagmaLinear(loss_type="l2")
    return lambda: model.fit(data, lambda1=lambda1, w_threshold=threshold)


def _notears(data, lambda1, threshold):
    from castle.algorithms import Notears

    model = Notears(lambda1=lambda1, w_threshold=threshold)

    def fit():
        model.learn(data)
        return _above(model)

    return fit


def _above(model):
    """Return the weights of the edges that gcastle keeps; its weights are uncut."""
    kept = np.asarray(model.causal_matrix) != 0
    return np.where(kept, np.asarray(model.weight_causal_matrix), 0.0)


def _golem(data, threshold):
    from castle.algorithms import GOLEM

    model = GOLEM(graph_thres=threshold, num_iter=20_000)  # 1e5 is its default

    def fit():
        model.learn(data)
        return _above(model)

    return fit


def _direct_lingam(data):
    import lingam

    model = lingam.DirectLiNGAM()

    def fit():
        model.fit(data)
        return model.adjacency_matrix_.T  # theirs is [effect, cause]

    return fit


METHODS = {
    "dagma": _dagma,
    "notears": _notears,
    "golem": _golem,
    "direct_lingam": _direct_lingam,
}


def main() -> None:
    method, path = sys.argv[1:]
    stored = np.load(path)
    options = SETTINGS[method][int(stored["standardized"])]
    warnings.simplefilter("ignore")
    with contextlib.redirect_stdout(sys.stderr):  # they print their progress
        fit = METHODS[method](stored["data"].copy(), **options)
        imports = time.process_time()
        weights = np.asarray(fit(), float)
        seconds = time.process_time() - imports
    names = {PACKAGES[method], "numpy", "torch"}
    versions = {}
    for name in sorted(names):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    record = {
        "weights": weights.tolist(),
        "cpu_seconds": round(seconds, 3),
        "import_cpu_seconds": round(imports, 3),
        "options": options,
        "versions": versions,
    }
    print(json.dumps(record))


if __name__ == "__main__":
    main()
