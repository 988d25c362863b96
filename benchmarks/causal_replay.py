"""Replay the seed's gradient explosion, and what ended it, on UCI Air Quality.

    python benchmarks/causal_replay.py [--seeds 0,1,2] [--epochs 5] [--out FILE]

Each arm of configs/causal_air_quality.yaml is trained by `stabjax.run.train` and read
back from its health log: mean gradient norm before any clip and share of steps clipped,
epoch by epoch. One JSON line per arm and random seed; the table goes to standard
output. The data come from STABJAX_DATA, or by the extra `causal`.
"""

import argparse
import dataclasses
import json
import pathlib
import platform
import sys
import tempfile
import time
from typing import Any

import jax

from stabjax.config import RunConfig, load, override
from stabjax.models.causal.dataset import load_dataset, steps_per_epoch
from stabjax.models.causal.training_log import Epoch, read_training_log
from stabjax.run import build_task, train

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "causal_air_quality.yaml"
# Arm: its name in the configuration, and the fix on top of `before` if it has one.
ARMS = {
    "before": ("before", None),
    "seed": ("seed", None),
    "only_standardization": ("before", "standardization"),
    "all_but_standardization": ("before", "all_but_standardization"),
    "only_weights": ("before", "weights"),
    "only_clip": ("before", "clip"),
    "only_rate_and_decay": ("before", "rate_and_decay"),
}


def arm_config(name: str, *, seed: int, epochs: int) -> RunConfig:
    """Return the configuration of an arm on a random seed."""
    base = load(CONFIG)
    arm, fix = ARMS[name]
    lines = list(base.compare.arms[arm])
    lines += base.compare.ablate[fix] if fix else ()
    config = override(base, [*lines, "train.early_stopping=null"])
    epoch = steps_per_epoch(load_dataset(config.model, seed=seed), config.model)
    lengths = [f"train.steps={epochs * epoch}", f"train.evaluate_every={epoch}"]
    return override(config, [*lengths, f"train.window={epoch}", f"train.seed={seed}"])


def replay(name: str, seeds: list[int], epochs: int) -> dict[int, list[Epoch]]:
    """Train an arm on every random seed with one compiled step; return its logs."""
    logs, shared = {}, None
    for seed in seeds:
        config = arm_config(name, seed=seed, epochs=epochs)
        task = build_task(config)
        task = task if shared is None else dataclasses.replace(task, train=shared)
        shared = task.train
        with tempfile.TemporaryDirectory() as folder:
            run = train(config, f"{folder}/run", task=task, progress=False)
            logs[seed] = read_training_log(run.folder)
    return logs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--out", type=pathlib.Path)
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    for name in options.arms.split(","):
        started = time.process_time()
        logs = replay(name, seeds, options.epochs)
        seconds = (time.process_time() - started) / len(seeds)
        for seed, log in logs.items():
            print(row(name, seed, log), flush=True)
            if options.out:
                with options.out.open("a") as file:
                    file.write(json.dumps(record(name, seed, log, seconds)) + "\n")


def row(name: str, seed: int, log: list[Epoch]) -> str:
    """Return a line of the table."""
    norms = " ".join(f"{entry.grad_norm:9.3g}" for entry in log)
    clips = " ".join(f"{entry.grad_clip_ratio:5.3f}" for entry in log)
    return f"{name:24s} seed {seed}  norm {norms}  clipped {clips}"


def record(name: str, seed: int, log: list[Epoch], seconds: float) -> dict[str, Any]:
    """Return a line of the results file."""
    return {
        "arm": name,
        "seed": seed,
        "epochs": [dataclasses.asdict(entry) for entry in log],
        "cpu_seconds": round(seconds, 1),
        "command": " ".join(["benchmarks/causal_replay.py", *sys.argv[1:]]),
        "jax": jax.__version__,
        "machine": platform.machine(),
    }


if __name__ == "__main__":
    main()
