"""Train the arms of configs/ppo_cpu.yaml on several random seeds, and say how sure.

    python benchmarks/ppo_arms.py arms            # the arms, five random seeds
    python benchmarks/ppo_arms.py ablation        # one change at a time on `before`
    python benchmarks/ppo_arms.py table arms      # mean and interval of what was found

The random seeds of an arm are mapped over one program, so that it compiles once; the
settings and guards are those of `stabjax compare ppo`. Writes one record per arm and
random seed to benchmarks/results/ppo_<what>.jsonl: figures of the last iteration, and
for each rule the first iteration in which it rang. With --only the other arms keep
their records.
"""

import argparse
import json
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from facts import facts
from scipy import stats

from stabjax.config import load
from stabjax.config.optimizers import build_optimizer
from stabjax.config.schema import RunConfig, build_guards
from stabjax.health import decode
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.environments import make_environment
from stabjax.models.ppo.evaluation import make_evaluation
from stabjax.models.ppo.seeds import start_seeds, train_seeds
from stabjax.run.compare_arms import Arm, arms_of

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "ppo_cpu.yaml"
LAST = (
    "episode_reward", "success_rate", "explained_variance",
    "explained_variance_own_unit", "loss", "raw/value", "value_loss_largest",
    "value_gradient_share", "approx_kl", "refused_total",
)  # fmt: skip
LARGEST = ("loss", "raw/value", "value_clip_dead_fraction", "first_log_ratio")
SHOWN = (
    "episode_reward", "success_rate", "eval_reward", "eval_success_rate",
    "explained_variance", "explained_variance_own_unit", "loss", "first loss",
    "highest loss", "highest raw/value", "value_gradient_share",
    "highest value_clip_dead_fraction", "approx_kl", "best reward", "fall of reward",
)  # fmt: skip

Row = dict[str, Any]


def train_arm(arm: Arm, steps: int | None) -> list[Row]:
    """Train an arm on all its random seeds; return one record for each."""
    seeds = list(arm.configs)
    config = arm.configs[seeds[0]]
    vector = make_environment(config.model)
    iteration, draw = assemble(
        config.model,
        vector,
        optimizer=build_optimizer(config.optimizer, source=config.source),
        guards=build_guards(config),
        window=1,
        form="select",  # mapped, a branch is one anyway
    )
    states = start_seeds(iteration, draw, seeds)
    schema = states.telemetry.schema
    length = steps or config.train.steps
    key = jax.random.key(0)
    train = jax.jit(lambda states: train_seeds(iteration, states, key, length))
    after, rows = jax.device_get(train(states))
    evaluate = make_evaluation(config.model, vector, iteration.apply, 0)
    records = []
    for number, seed in enumerate(seeds):
        found = decode(schema, rows.floats[:, number], rows.ints[:, number])
        state = jax.tree.map(lambda x, at=number: x[at], after)
        record: Row = {"arm": arm.name, "seed": seed, "steps": length}
        record |= figures(found) | evaluate(state)
        record["alerts"] = first_rings(config, schema.subjects, found)
        records.append(record)
    return records


def figures(rows: Sequence[Row]) -> Row:
    """Return what a run is judged by."""
    found = {name: rows[-1][name] for name in LAST if name in rows[-1]}
    for name in LARGEST:
        if name in rows[-1]:
            found[f"highest {name}"] = float(np.nanmax([row[name] for row in rows]))
    rewards = np.array([row["episode_reward"] for row in rows])
    rewards = rewards[np.isfinite(rewards)]
    best = np.maximum.accumulate(rewards)
    every = max(1, len(rows) // 10)
    return found | {
        "first loss": rows[0]["loss"],
        "best reward": float(best[-1]),
        # How far the reward was below the best that it had been.
        "fall of reward": float(np.max(best - rewards)),
        "curve": {
            name: [float(f"{row[name]:.5g}") for row in rows[every - 1 :: every]]
            for name in ("episode_reward", "loss", "explained_variance")
        },
    }


def first_rings(
    config: RunConfig, subjects: Sequence[tuple[str, str]], rows: Sequence[Row]
) -> dict[str, int]:
    """Return for each rule that rang its first iteration, from 0."""
    names = [name for name in subjects if name[0].startswith("metric_range")]
    rules = [
        entry for entry in config.guards or () if entry.get("kind") == "metric_range"
    ]
    rang = {}
    for (column, subject), rule in zip(names, rules, strict=True):
        bound = f"< {rule['low']:g}" if rule.get("low") is not None else ""
        bound = bound or f"> {rule['high']:g}"
        at = [row["step"] for row in rows if row[column]]
        if at:
            rang[f"{subject} {bound}"] = at[0]
    return rang


def interval(values: Sequence[float]) -> str:
    """Return mean and 95 % interval of Student's t, or what little is known."""
    known = np.array([v for v in values if v is not None and np.isfinite(v)])
    if len(known) < 2:
        return f"{known[0]:.4g} (1)" if len(known) else "-"
    half = stats.t.ppf(0.975, len(known) - 1) * stats.sem(known)
    return f"{np.mean(known):.4g} ± {half:.2g}"


def table(path: pathlib.Path) -> None:
    """Print mean and interval of every figure, and how often each rule rang."""
    records = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    arms = list(dict.fromkeys(record["arm"] for record in records))
    for arm in arms:
        of_arm = [record for record in records if record["arm"] == arm]
        print(f"{arm}, {len(of_arm)} seeds, {of_arm[0]['steps']} iterations")
        for name in SHOWN:
            values = [record[name] for record in of_arm if name in record]
            if values:
                print(f"  {name:34s} {interval(values)}")
        print_rings(of_arm)


def print_rings(runs: Sequence[Row]) -> None:
    """Print for each rule that rang how often, and its first iterations."""
    for rule in dict.fromkeys(rule for one in runs for rule in one["alerts"]):
        at = [one["alerts"][rule] for one in runs if rule in one["alerts"]]
        print(f"  rings: {rule:27s} {len(at)} of {len(runs)}, first at {at}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("arms", "ablation", "table"))
    parser.add_argument("of", nargs="?", default="arms", help="what to tabulate")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, help="iterations; as configured else")
    parser.add_argument("--only", help="names of arms, by commas")
    options = parser.parse_args()
    results = ROOT / "benchmarks" / "results"
    if options.what == "table":
        table(results / f"ppo_{options.of}.jsonl")
        return
    ablate = options.what == "ablation"
    arms = arms_of(load(CONFIG), tuple(range(options.seeds)), ablate=ablate)
    if ablate:
        arms = [arm for arm in arms if arm.ablation or arm.name == "before"]
    wanted = options.only.split(",") if options.only else [arm.name for arm in arms]
    path = results / f"ppo_{options.what}.jsonl"
    lines = [json.dumps({"benchmark": options.what} | facts())]
    if options.only:  # the other arms keep their records
        old = path.read_text().splitlines()[1:]
        lines += [line for line in old if json.loads(line)["arm"] not in wanted]
    for arm in arms:
        if arm.name not in wanted:
            continue
        before = time.process_time()
        records = train_arm(arm, options.steps)
        seconds = round(time.process_time() - before, 1)
        shared = {"overrides": arm.overrides, "cpu_seconds_of_the_arm": seconds}
        lines += [json.dumps(record | shared) for record in records]
        path.write_text("\n".join(lines) + "\n")
        print(f"{arm.name}: {seconds} CPU-seconds", flush=True)


if __name__ == "__main__":
    main()
