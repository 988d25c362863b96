"""Compare the guarded loop with those that JAX users would pick, and with itself.

    python benchmarks/ppo.py speed      # time per environment step, interleaved
    python benchmarks/ppo.py returns    # what each has learned after as many steps
    python benchmarks/ppo.py scales     # one configuration, rewards x 0.01, 1, 100

One JSON object per line. The peers are purejaxrl's loop, written anew in ppo_plain.py,
and rejax, if it is installed, on our environments through its own interface. All have
the same numbers of environments, steps, epochs and minibatches and layers as wide;
stabjax has one trunk for policy and values, as shipped, the peers two networks.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import numpy as np
import optax
from facts import facts
from ppo_tasks import TASKS, all_guards, config_of, ours, plain, rejax_of
from timing import interleave

from stabjax.guards import skip_nonfinite
from stabjax.models.ppo import Config
from stabjax.models.ppo.build import assemble
from stabjax.models.ppo.environment import vectorize
from stabjax.models.ppo.environments import make_environment
from stabjax.models.ppo.seeds import start_seeds, train_seeds

Chunk = Callable[[], None]


def chunk(step: Callable[[Any], Any], state: Any, iterations: int) -> Chunk:
    """Return a call of so many iterations that keeps its state."""
    many = jax.jit(
        lambda s: jax.lax.scan(lambda c, _: (step(c), None), s, None, iterations)[0]
    )
    held = [state]

    def run() -> None:
        held[0] = jax.block_until_ready(many(held[0]))

    return run


def speed(task: str, rounds: int, iterations: int) -> dict[str, Any]:
    """Time the loops against each other, per environment step."""
    key = jax.random.key(0)
    variants: dict[str, Chunk] = {}
    for name, guards in (("stabjax, all guards", all_guards()), ("unguarded", None)):
        iteration, draw = ours(task, guards)
        params = draw(key)
        start = iteration.first_model_state(params, key)
        state = iteration.init(params, None, model_state=start)
        variants[name] = chunk(
            lambda s, it=iteration: it.one(s, {}, key)[0], state, iterations
        )
    loop = plain(task)
    variants["purejaxrl's loop"] = chunk(
        lambda r: loop.iterate(r)[0], loop.init(key), iterations
    )
    algorithm = rejax_of(task)
    if algorithm is not None:
        variants["rejax"] = chunk(
            algorithm.train_iteration, algorithm.init_state(key), iterations
        )
    ratios = interleave(variants, "stabjax, all guards", rounds)
    steps = TASKS[task]["envs"] * TASKS[task]["steps"] * iterations
    return {
        "benchmark": "speed",
        "task": task,
        "steps_per_call": steps,
        "rounds": rounds,
        "loops": {
            name: ratio._asdict()
            | {"microseconds_per_step": round(1e3 * ratio.milliseconds / steps, 3)}
            for name, ratio in ratios.items()
        },
    }


def returns(task: str, seeds: int) -> dict[str, Any]:
    """Train each loop as long; return the mean rewards at the end of the runs.

    Of training episodes in the last five iterations; of rejax, which keeps no count of
    them, of fresh episodes with the same noise.
    """
    found = {"stabjax, all guards": our_rewards(task, seeds)}
    loop, iterations = plain(task), TASKS[task]["iterations"]
    train = jax.jit(lambda r: jax.lax.scan(loop.iterate, r, None, length=iterations))
    found["purejaxrl's loop"] = [
        float(np.nanmean(np.asarray(train(loop.init(jax.random.key(seed)))[1])[-5:]))
        for seed in range(seeds)
    ]
    algorithm = rejax_of(task)
    if algorithm is not None:
        found["rejax"] = rejax_rewards(algorithm, seeds, iterations)
    return {
        "benchmark": "returns",
        "task": task,
        "steps": TASKS[task]["envs"] * TASKS[task]["steps"] * iterations,
        "reward": {k: [round(x, 2) for x in v] for k, v in found.items()},
    }


def our_rewards(task: str, seeds: int) -> list[float]:
    iteration, draw = ours(task, all_guards())
    step = iteration.train_step().step
    rewards = []
    for seed in range(seeds):
        key = jax.random.key(seed)
        params = draw(key)
        start = iteration.first_model_state(params, jax.random.fold_in(key, 1))
        state = iteration.init(params, None, model_state=start)
        column = state.telemetry.schema.floats.index("episode_reward")
        row = None
        for _ in range(TASKS[task]["iterations"]):
            state, row = step(state, {}, jax.random.fold_in(key, 2))
        assert row is not None
        rewards.append(float(row.floats[column]))
    return rewards


def rejax_rewards(algorithm: Any, seeds: int, iterations: int) -> list[float]:
    def once(state: Any, _: None) -> tuple[Any, None]:
        return algorithm.train_iteration(state), None

    @jax.jit
    def reward(key: Any, key_episodes: Any) -> Any:
        state = algorithm.init_state(key)
        state, _ = jax.lax.scan(once, state, None, length=iterations)
        return algorithm.eval_callback(algorithm, state, key_episodes)[1]

    key = jax.random.key
    return [float(jnp.mean(reward(key(s), key(s + 100)))) for s in range(seeds)]


SCALE_ARMS: dict[str, dict[str, Any]] = {
    "before": {"normalize_returns": False, "enable_value_clipping": True},
    "raw, no clip": {"normalize_returns": False},
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


def scales(seeds: int) -> None:
    """Train pendulum under three scales of the reward."""
    for arm, settings in SCALE_ARMS.items():
        guards = None if arm in ("before", "seed") else (skip_nonfinite(),)
        train = scaled(config_of("pendulum", **settings), guards, seeds)
        for factor in (0.01, 1.0, 100.0):
            rewards, known = train(factor)
            report(
                {
                    "benchmark": "scales",
                    "task": "pendulum",
                    "arm": arm,
                    "reward_scale": factor,
                    "reward": [round(x / factor, 2) for x in rewards],
                    "explained_variance": [round(x, 3) for x in known],
                }
            )


def scaled(
    config: Config, guards: Any, seeds: int
) -> Callable[[float], tuple[list[float], list[float]]]:
    """Return the function from a scale to each seed's reward and explained variance.

    One program for all scales, the seeds mapped over.
    """
    sizes = TASKS["pendulum"]
    of = make_environment(config).of

    def assembled(factor: Any) -> tuple[Any, Any]:
        return assemble(
            config,
            vectorize(of, config.num_envs, reward_scale=factor),
            optimizer=optax.adam(sizes["rate"], eps=1e-5),
            guards=guards,
            window=8,
            form="select",
        )

    states = start_seeds(*assembled(1.0), range(seeds))
    names = states.telemetry.schema.floats

    @jax.jit
    def rows(factor: Any) -> Any:
        iteration, key = assembled(factor)[0], jax.random.key(0)
        return train_seeds(iteration, states, key, sizes["iterations"])[1].floats[-1]

    def train(factor: float) -> tuple[list[float], list[float]]:
        last = np.asarray(rows(jnp.float32(factor)))
        wanted = ("episode_reward", "explained_variance")
        rewards, known = (last[:, names.index(name)].tolist() for name in wanted)
        return rewards, known

    return train


def report(line: dict[str, Any]) -> None:
    """Print a record, with the command and the CPU-seconds it has taken so far."""
    so_far = {
        "command": " ".join(["python", *sys.argv]),
        "cpu_seconds": round(time.process_time(), 1),
    }
    print(json.dumps(line | so_far | facts("gymnax", "rejax")), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("speed", "returns", "scales"))
    parser.add_argument("--tasks", default="cartpole,pendulum")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--iterations", type=int, default=10, help="per timed call")
    options = parser.parse_args()
    if options.what == "scales":
        scales(options.seeds)
        return
    for task in options.tasks.split(","):
        if options.what == "speed":
            report(speed(task, options.rounds, options.iterations))
        else:
            report(returns(task, options.seeds))


if __name__ == "__main__":
    main()
