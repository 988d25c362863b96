"""Show the documented collapse of the reward, which needs a policy that earns.

    python benchmarks/ppo_collapse.py           # five random seeds, 40 iterations
    python benchmarks/ppo_collapse.py --table   # mean and interval of what was found

The first batch of the document earned +1926: its training did not start from nothing.
So does this: from a policy trained as `sound` for 80 iterations, its value heads drawn
anew. From there each arm goes on at the learning rate of the document, 1e-4. Writes
benchmarks/results/ppo_collapse.jsonl.
"""

import argparse
import json
import pathlib
import time
from typing import Any

import jax
import numpy as np
import optax
from facts import facts
from ppo_arms import first_rings, interval, print_rings

from stabjax.config import load
from stabjax.config.schema import build_guards
from stabjax.health import decode
from stabjax.models.ppo import Config
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.environments import make_environment
from stabjax.models.ppo.seeds import start_seeds, train_seeds
from stabjax.train_step import TrainState

ROOT = pathlib.Path(__file__).parents[1]
PATH = ROOT / "benchmarks" / "results" / "ppo_collapse.jsonl"
CONFIG = load(ROOT / "configs" / "ppo_cpu.yaml")
TRAINED, FAST = 80, 1e-3  # iterations and learning rate of the policy it starts from
BEFORE = {"normalize_returns": False, "enable_value_clipping": True}
ARMS: dict[str, dict[str, Any]] = {
    "before": BEFORE,
    "before, value_loss_weight 0.25": BEFORE | {"value_loss_weight": 0.25},
    "before, two trunks": BEFORE | {"shared_encoder": False},
    "seed": {
        "enable_value_clipping": True,
        "use_relative_value_clip": True,
        "relative_value_clip": "seed",
        "return_normalization": "seed",
        "return_scale": 10.0,
        "value_loss_weight": 0.25,
    },
    "sound": {},
}

Rows = list[dict[str, Any]]


def train(
    config: Config, rate: float, seeds: int, steps: int, start: Any = None
) -> tuple[TrainState, list[Rows], Any]:
    """Train all random seeds; return their states, their rows and the columns.

    Args:
        config: The model's configuration.
        rate: Learning rate.
        seeds: How many.
        steps: Iterations.
        start: Parameters of all seeds to start from, all but the value heads; None:
            drawn.
    """
    iteration, draw = assemble(
        config,
        make_environment(config),
        optimizer=optax.adam(rate, eps=1e-5),
        guards=build_guards(CONFIG),
        window=1,
        form="select",
    )
    states = start_seeds(iteration, draw, range(seeds))
    if start is not None:
        kept = {name: part for name, part in start.items() if name != "value_head"}
        states = states._replace(params={**states.params, **kept})
    key = jax.random.key(0)
    run = jax.jit(lambda states: train_seeds(iteration, states, key, steps))
    after, rows = jax.device_get(run(states))
    schema = states.telemetry.schema
    decoded = [
        decode(schema, rows.floats[:, at], rows.ints[:, at]) for at in range(seeds)
    ]
    return after, decoded, schema


def judged(rows: Rows) -> dict[str, Any]:
    """Return what a run shows of a collapse."""
    rewards = np.array([row["episode_reward"] for row in rows])
    known = rewards[np.isfinite(rewards)]
    return {
        "first reward": float(known[0]),
        "last reward": float(known[-1]),
        "lowest reward": float(known.min()),
        "last success rate": rows[-1]["success_rate"],
        "first loss": rows[0]["loss"],
        "highest loss": max(row["loss"] for row in rows),
        "last loss": rows[-1]["loss"],
        "least share of values in the pull": min(
            row["value_gradient_share"] for row in rows
        ),
        "largest KL": max(row["approx_kl"] for row in rows),
        "rewards": [round(reward) for reward in known.tolist()],
    }


def run(rate: float, seeds: int, steps: int) -> None:
    """Train all arms; write one record per arm and random seed."""
    after, rows, _ = train(CONFIG.model, FAST, seeds, TRAINED)
    start = after.params
    earned = [one[-1]["episode_reward"] for one in rows]
    header = {"benchmark": "collapse", "trained_policy_earned": earned, "rate": rate}
    lines = [json.dumps(header | facts())]
    for name, changes in ARMS.items():
        before = time.process_time()
        # A trunk of its own for the values is drawn: the trained one is the policy's.
        config = CONFIG.model.model_copy(update=changes)
        _, rows, schema = train(config, rate, seeds, steps, start)
        seconds = round(time.process_time() - before, 1)
        for seed, one in enumerate(rows):
            record = {"arm": name, "seed": seed, "cpu_seconds_of_the_arm": seconds}
            record |= {"alerts": first_rings(CONFIG, schema.subjects, one)}
            lines.append(json.dumps(record | judged(one)))
        PATH.write_text("\n".join(lines) + "\n")
        print(f"{name}: {seconds} CPU-seconds", flush=True)


def table() -> None:
    """Print mean and interval of each figure, and how often each rule rang."""
    header, *records = map(json.loads, PATH.read_text().splitlines())
    print("the trained policy earned", interval(header["trained_policy_earned"]))
    for arm in dict.fromkeys(record["arm"] for record in records):
        runs = [record for record in records if record["arm"] == arm]
        print(f"{arm}, {len(runs)} seeds")
        for figure in runs[0]:
            if isinstance(runs[0][figure], float) and "cpu" not in figure:
                print(f"  {figure:34s} {interval([one[figure] for one in runs])}")
        print_rings(runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    if options.table:
        table()
    else:
        run(options.rate, options.seeds, options.steps)


if __name__ == "__main__":
    main()
