"""Measure which fix of the particle GAN does something, and what its arms reach.

    python benchmarks/gan.py ablation --seeds 0,1,2,3
    python benchmarks/gan.py targets --seeds 0,1,2,3

One JSON object per line and per arm and random seed, appended to
benchmarks/results/gan_<what>.jsonl. CPU seconds are process time, compilation apart.
"""

import argparse
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from facts import facts

from stabjax.config import load, override
from stabjax.config.schema import RunConfig
from stabjax.run.build import build_task, first_state
from stabjax.run.compare_arms import arms_of

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "gan_cpu.yaml"
STEPS = {"ablation": 500, "targets": 1500}
# What else might make the documented fixes succeed: the average, and more turns.
EXTRA = {"seed_averaged": ("seed", ["model.average=0.99", "model.critic_steps=2"])}
TARGETS = ("seed", "seed_averaged", "sound")
SCORES = (
    "w1_over_floor", "w1_particles", "w1_particles_floor", "w1_log_radius",
    "w1_log_radius_floor", "w1_multiplicity", "w1_multiplicity_floor", "count_error",
    "count_error_floor", "classifier_auc", "classifier_auc_floor", "empty",
)  # fmt: skip


def configurations(what: str, seed: int) -> dict[str, RunConfig]:
    """Return the arms that are measured, by name."""
    base = load(CONFIG)
    arms = {a.name: a for a in arms_of(base, (seed,), ablate=True)}
    if what == "ablation":
        chosen = {
            n: a.configs[seed]
            for n, a in arms.items()
            if (a.ablation or n in ("before", "seed")) and n != "guarded"
        }
        return {n: override(c, ["guards=null"]) for n, c in chosen.items()}
    chosen = {n: arms[n].configs[seed] for n in TARGETS if n in arms}
    for name, (of, changes) in EXTRA.items():
        chosen[name] = override(arms[of].configs[seed], changes)
    return chosen


def train(
    task: Any, config: RunConfig, steps: int
) -> tuple[Any, dict[str, np.ndarray], float]:
    """Train; return the state, the columns of telemetry, and CPU seconds."""
    init_key, run_key = jax.random.split(jax.random.key(config.train.seed))
    state = first_state(task, init_key, run_key, config)
    names = task.train.schema(state).floats
    # Compile on a copy; the first real step is then as cheap as the others.
    spare = jax.tree.map(lambda x: x.copy(), state)
    jax.block_until_ready(task.train.step(spare, task.batch_at(0), run_key)[1].floats)
    started, rows = time.process_time(), []
    for position in range(steps):
        state, row = task.train.step(state, task.batch_at(position), run_key)
        rows.append(row.floats)
    table = np.stack(jax.device_get(rows))
    seconds = time.process_time() - started
    return state, {n: table[:, i] for i, n in enumerate(names)}, seconds


def liveness(columns: dict[str, np.ndarray]) -> dict[str, float]:
    """Return whether fakes are empty, scores stuck and the generator told anything."""
    turns = columns["gradient/generator"][columns["generator_turn"] == 1.0]
    return {
        "stuck_first": float(columns["fakes_without_slope"][0]),
        "stuck_last": float(columns["fakes_without_slope"][-100:].mean()),
        "empty_first": float(columns["empty_fakes"][0]),
        "empty_last": float(columns["empty_fakes"][-100:].mean()),
        "generator_gradient_first": float(turns[0]),
        "generator_gradient_last": float(turns[-20:].mean()),
        "turns": len(turns),
        "turns_without_gradient": int((turns == 0.0).sum()),
        "critic_loss_first": float(columns["raw/critic"][0]),
    }


def measure(what: str, name: str, seeds: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the record of each seed; the step is compiled once."""
    shared = None
    for seed in seeds:
        config = configurations(what, seed)[name]
        task = build_task(config)
        task = task if shared is None else dataclasses.replace(task, train=shared)
        shared = task.train
        state, columns, seconds = train(task, config, STEPS[what])
        record = {"arm": name, "seed": seed, "steps": STEPS[what]}
        record |= {"cpu_seconds": round(seconds, 1)} | liveness(columns)
        if what == "targets":
            scores = task.evaluate(state)
            record |= {key: scores[key] for key in SCORES}
        yield record | facts()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=sorted(STEPS))
    parser.add_argument("--seeds", default="0,1,2,3")
    parser.add_argument("--arms", help="comma-separated; all by default")
    options = parser.parse_args()
    seeds = [int(seed) for seed in options.seeds.split(",")]
    arms = options.arms.split(",") if options.arms else None
    path = ROOT / "benchmarks" / "results" / f"gan_{options.what}.jsonl"
    for name in arms or configurations(options.what, seeds[0]):
        for record in measure(options.what, name, seeds):
            rounded = {
                k: float(f"{v:.7g}") if isinstance(v, float) else v
                for k, v in record.items()
            }
            with path.open("a") as file:
                # An infinite distance, of no particle at all, is written as null.
                clean = {
                    k: None if isinstance(v, float) and not np.isfinite(v) else v
                    for k, v in rounded.items()
                }
                file.write(json.dumps(clean, allow_nan=False) + "\n")
            print(json.dumps(clean), flush=True)


if __name__ == "__main__":
    main()
