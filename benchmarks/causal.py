"""Learn graphs beside public methods, on data whose graph is known.

    python benchmarks/causal.py run --methods ours,empty,sortnregress
    python benchmarks/causal.py run --methods dagma --peers-python PATH
    python benchmarks/causal.py show

The data are those of NOTEARS: weights of size 0.5 to 2, 1000 rows. The peers (extra
``benchmark``) run one fit to a process, on one thread, by `causal_peers.py`; give the
interpreter that has them as ``--peers-python``. CPU-seconds are process time: of the
fit, and of the imports before it. Ours learns all seeds of a setting in one compiled
program (`causal_own.py`); its figures hold the compilation, and a seed's share is the
total over the seeds.
"""

import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from stabjax.models.causal.metrics import (
    auprc,
    auroc,
    edge_scores,
    r2_sortability,
    varsortability,
)
from stabjax.models.causal.synthetic import (
    random_dag,
    random_weights,
    sample_linear_sem,
)

HERE = pathlib.Path(__file__).parent
RESULTS = HERE / "results"
ROWS = 1000
PEERS = ("dagma", "notears", "golem", "direct_lingam")
ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)

# name: nodes, noise, standardized per feature
SETTINGS: dict[str, tuple[int, str, bool]] = {
    "er2_d20_gaussian": (20, "gaussian", False),
    "er2_d50_gaussian": (50, "gaussian", False),
    "er2_d20_exponential_standardized": (20, "exponential", True),
    "er2_d20_laplace_standardized": (20, "laplace", True),
}


def sample(setting: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the true weights and the data of one seed."""
    nodes, noise, standardized = SETTINGS[setting]
    rng = np.random.default_rng(seed)
    weights = random_weights(random_dag(nodes, 2, rng), rng)
    data = sample_linear_sem(weights, ROWS, rng, noise=noise)  # type: ignore[arg-type]
    if standardized:
        data = (data - data.mean(0)) / data.std(0)
    return weights, data


def judge(weights: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Return what an estimated graph scores against the true one."""
    found = edge_scores(weights, truth)
    ranking = np.abs(weights)
    record = found._asdict()
    record["auroc"], record["auprc"] = auroc(ranking, truth), auprc(ranking, truth)
    return {name: round(value, 4) for name, value in record.items()}


def fit(script: str, method: str, data: np.ndarray, standardized: bool, python: str):
    """Run one of the two scripts on the data and return the record it prints."""
    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, data=data, standardized=standardized)
        file.flush()
        done = subprocess.run(
            [python, str(HERE / script), method, file.name],
            env=os.environ | ONE_THREAD,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(f"{method} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def run_peer(
    method: str, setting: str, seeds: list[int], python: str
) -> Iterator[dict[str, Any]]:
    """Run a public method, one process per seed."""
    for seed in seeds:
        truth, data = sample(setting, seed)
        record = fit("causal_peers.py", method, data, SETTINGS[setting][2], python)
        weights = np.array(record.pop("weights"))
        yield {"method": method, "seed": seed, **judge(weights, truth), **record}


def run_own(method: str, setting: str, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Run a method of this package, all seeds in one process."""
    truths, data = zip(*(sample(setting, seed) for seed in seeds), strict=True)
    standardized = SETTINGS[setting][2]
    record = fit("causal_own.py", method, np.stack(data), standardized, sys.executable)
    found = np.array(record.pop("weights"))
    lists = {key: record.pop(key) for key in list(record) if _is_list(record[key])}
    for place, (seed, truth, rows) in enumerate(zip(seeds, truths, data, strict=True)):
        yield {
            "method": method,
            "seed": seed,
            **judge(found[place], truth),
            "varsortability": round(varsortability(rows, truth), 4),
            "r2_sortability": round(r2_sortability(rows, truth), 4),
            **{key: values[place] for key, values in lists.items()},
            **record,
        }


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def machine() -> dict[str, Any]:
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "processor": _processor(),
        "python": platform.python_version(),
    }


def _processor() -> str:
    with open("/proc/cpuinfo") as file:
        names = [line.split(":")[1] for line in file if line.startswith("model name")]
    return names[0].strip() if names else platform.processor()


def run(arguments: argparse.Namespace) -> None:
    first, _, last = arguments.seeds.partition("-")
    seeds = list(range(int(first), int(last or first) + 1))
    for setting in arguments.settings.split(","):
        path = arguments.out / f"causal_{setting}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        for method in arguments.methods.split(","):
            if method in PEERS:
                rows = run_peer(method, setting, seeds, arguments.peers_python)
            else:
                rows = run_own(method, setting, seeds)
            for row in rows:
                row |= {"command": " ".join(sys.argv), **machine()}
                with path.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(setting, method, row["seed"], row["shd"], flush=True)


def show(arguments: argparse.Namespace) -> None:
    """Print, for every setting, the mean scores of each method; newest row counts."""
    columns = ("shd", "f1", "auroc", "auprc", "cpu_seconds")
    for path in sorted(arguments.out.glob("causal_*.jsonl")):
        latest: dict[tuple[str, int], dict[str, Any]] = {}
        for line in path.read_text().splitlines():
            row = json.loads(line)
            latest[row["method"], row["seed"]] = row
        print(f"\n{path.stem.removeprefix('causal_')}")
        print(f"{'method':24}{'seeds':>6}" + "".join(f"{c:>13}" for c in columns))
        for method in sorted({name for name, _ in latest}):
            rows = [row for (name, _), row in latest.items() if name == method]
            means = [float(np.mean([row[c] for row in rows])) for c in columns]
            figures = "".join(f"{value:13.3f}" for value in means)
            print(f"{method:24}{len(rows):6}{figures}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    runs = commands.add_parser("run", help="fit and append to the results")
    runs.add_argument("--methods", required=True, help="comma-separated names")
    runs.add_argument("--settings", default=",".join(SETTINGS))
    runs.add_argument("--seeds", default="0-9", help="first-last")
    runs.add_argument("--peers-python", default=sys.executable)
    runs.add_argument("--out", type=pathlib.Path, default=RESULTS)
    runs.set_defaults(act=run)
    shows = commands.add_parser("show", help="print the tables")
    shows.add_argument("--out", type=pathlib.Path, default=RESULTS)
    shows.set_defaults(act=show)
    arguments = parser.parse_args()
    arguments.act(arguments)


if __name__ == "__main__":
    main()
