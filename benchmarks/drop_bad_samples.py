"""Measure what dropping bad samples is worth beside dropping batches, and its price.

    python benchmarks/drop_bad_samples.py train
    python benchmarks/drop_bad_samples.py cost

`train`: a perceptron learns a random teacher of five classes, 600 steps of 64 samples,
some of them bad; per damage and arm the accuracy on fresh samples, the cross-entropy
there and the steps applied (which `optax.apply_if_finite` does not tell). A NaN input
makes the loss NaN; an input of zeros, as of padding, has a finite loss and the NaN
gradient of its norm.

`cost`: train steps of the perceptron with 1.2 M parameters, timed as interleaved ratios
to the plain mean, and what XLA counts in the compiled programs, in N, the bytes
of the parameters (it counts once the loop that a healthy step does not run).

One JSON object per line, appended to benchmarks/results/drop_bad_samples.jsonl.
Intervals are those of Student's t over the random seeds, 95 %.
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import programs
import timing
from facts import facts
from scipy import stats
from step_time import materialize

from stabjax.guards import skip_nonfinite
from stabjax.loss_transforms import drop_bad_samples
from stabjax.train_step import TrainStep, make_train_step

RESULTS = pathlib.Path(__file__).resolve().parent / "results" / "drop_bad_samples.jsonl"
SEEDS, STEPS, BATCH, INPUTS, CLASSES, TESTED = 5, 600, 64, 16, 5, 8192
CALLS = 2


class Data(NamedTuple):
    """Batches to train on, and fresh samples to score with.

    Attributes:
        batches: Inputs and labels, along leading axes of steps and samples.
        fresh: The same of the samples that score.
    """

    batches: tuple[Any, Any]
    fresh: tuple[Any, Any]


def first_params(seed: int) -> dict[str, Any]:
    """Return a perceptron of two layers with a gain per input."""
    random = np.random.default_rng(1000 + seed)
    first = random.standard_normal((INPUTS, 64)) / INPUTS**0.5
    second = random.standard_normal((64, CLASSES)) / 8
    params = {"gain": np.ones(INPUTS), "first": first, "second": second}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)


def logits_of(params: Any, inputs: Any) -> Any:
    hidden = jax.nn.relu((inputs * params["gain"]) @ params["first"])
    return hidden @ params["second"]


def sample_loss(params: Any, sample: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    """Cross-entropy, and a little of the norm of what enters."""
    del key
    inputs, label = sample
    norm = jnp.sqrt(jnp.sum((inputs * params["gain"]) ** 2))
    entropy = optax.softmax_cross_entropy_with_integer_labels(
        logits_of(params, inputs), label
    )
    return entropy + 1e-3 * norm, {}


def mean_of(loss_fn: Callable[..., Any]) -> Callable[..., Any]:
    """Return the plain mean over a batch."""

    def mean_loss(params: Any, batch: Any, key: Any) -> tuple[Any, dict[str, Any]]:
        losses = jax.vmap(lambda sample: loss_fn(params, sample, key)[0])(batch)
        return jnp.mean(losses), {}

    return mean_loss


def data_of(seed: int, damage: str) -> Data:
    """Return samples of a random teacher, some of the batches' broken."""
    random = np.random.default_rng(seed)
    teacher = random.standard_normal((INPUTS, 24)), random.standard_normal((24, 5))
    count = STEPS * BATCH + TESTED
    inputs = random.standard_normal((count, INPUTS)).astype(np.float32)
    labels = np.argmax(np.tanh(inputs @ teacher[0]) @ teacher[1], axis=1)
    labels = labels.astype(np.int32)
    train = inputs[TESTED:].reshape(STEPS, BATCH, INPUTS)
    value, share = DAMAGES[damage]
    bad = random.random((STEPS, BATCH)) < share
    if share == 1 / BATCH:
        bad = np.arange(BATCH) == random.integers(BATCH, size=(STEPS, 1))
    train[bad] = value
    batches = train, labels[TESTED:].reshape(STEPS, BATCH)
    return Data(batches, (inputs[:TESTED], labels[:TESTED]))


# The value of a bad input, and the share of samples that get it; of one per batch,
# exactly one.
DAMAGES = {
    "none": (0.0, 0.0),
    "NaN input, one per batch": (np.nan, 1 / BATCH),
    "NaN gradient, one per batch": (0.0, 1 / BATCH),
    "NaN input, one of 100 samples": (np.nan, 0.01),
    "NaN input, one of 1000 samples": (np.nan, 0.001),
}


def arms() -> dict[str, TrainStep]:
    """Return the train steps that are compared."""
    plain, good = mean_of(sample_loss), drop_bad_samples(sample_loss)
    adam = optax.adam(3e-3)
    given_in = optax.apply_if_finite(adam, max_consecutive_errors=5)
    skip = [skip_nonfinite(max_consecutive=STEPS + 1)]
    return {
        "unguarded": make_train_step(plain, adam, guards=None),
        "optax.apply_if_finite": make_train_step(plain, given_in, guards=None),
        "skip_nonfinite": make_train_step(plain, adam, guards=skip),
        "drop_bad_samples": make_train_step(good, adam, guards=skip),
    }


@jax.jit
def score(params: Any, inputs: Any, labels: Any) -> tuple[Any, Any]:
    """Return accuracy and cross-entropy; a NaN predicts nothing."""
    logits = logits_of(params, inputs)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    right = (jnp.argmax(logits, axis=1) == labels) & jnp.all(jnp.isfinite(logits), 1)
    return jnp.mean(right.astype(jnp.float32)), jnp.mean(losses)


def run(train: TrainStep, seed: int, data: Data) -> dict[str, float]:
    """Train once and score."""
    batches = jax.tree.map(jnp.asarray, data.batches)
    state = train.init(first_params(seed), jax.tree.map(lambda x: x[0], batches))
    state, rows = train.many_steps(state, batches, jax.random.key(seed))
    accuracy, entropy = score(state.params, *data.fresh)
    schema = train.schema(state)
    floats, ints = (np.asarray(table) for table in rows)
    dropped = (
        floats[:, schema.floats.index("dropped_samples")].sum()
        if "dropped_samples" in schema.floats
        else 0.0
    )
    return {
        "accuracy": float(accuracy),
        "cross_entropy": float(entropy),
        "applied": int(ints[-1, schema.ints.index("applied_total")]),
        "dropped": int(dropped),
    }


def interval(values: list[float]) -> list[float]:
    """Return mean, and the 95 % interval of Student's t; None where not finite."""
    if not np.all(np.isfinite(values)):
        return [None, None, None]
    mean, spread = np.mean(values), stats.sem(values)
    reach = spread * stats.t.ppf(0.975, len(values) - 1)
    return [round(float(v), 4) for v in (mean, mean - reach, mean + reach)]


def train_rows(seeds: int) -> Iterator[dict[str, Any]]:
    """Yield one row per damage and arm."""
    steps, healthy = arms(), None
    for damage in DAMAGES:
        for name, train in steps.items():
            found = [run(train, seed, data_of(seed, damage)) for seed in range(seeds)]
            columns = {key: [row[key] for row in found] for key in found[0]}
            if healthy is None:
                healthy = columns["accuracy"]
            pairs = zip(columns["accuracy"], healthy, strict=True)
            yield {
                "what": "train",
                "damage": damage,
                "arm": name,
                "seeds": seeds,
                "accuracy": interval(columns["accuracy"]),
                "accuracy_below_healthy": interval([b - a for a, b in pairs]),
                "cross_entropy": interval(columns["cross_entropy"]),
                "steps_applied": None if "optax" in name else columns["applied"],
                "samples_dropped": columns["dropped"],
            }


def large_loss(params: Any, sample: Any, key: Any) -> tuple[Any, dict[str, Any]]:
    """Cross-entropy of the large perceptron, and a little of a norm of its input."""
    del key
    hidden, label = sample
    norm = jnp.sqrt(jnp.sum((hidden * params["layer0"]["kernel"][:, 0]) ** 2))
    for name in sorted(params, key=lambda name: (name == "head", name)):
        hidden = hidden @ params[name]["kernel"] + params[name]["bias"]
        hidden = hidden if name == "head" else jax.nn.relu(hidden)
    entropy = optax.softmax_cross_entropy_with_integer_labels(hidden, label)
    return entropy + 1e-3 * norm, {}


def cost_rows(batch: int, rounds: int) -> Iterator[dict[str, Any]]:
    """Yield one row per program and batch it is given."""
    params = materialize(programs.mlp(), 0, 0.02)
    random = np.random.default_rng(2)
    inputs = random.standard_normal((batch, 784)).astype(np.float32)
    labels = jnp.asarray(random.integers(0, 10, batch), jnp.int32)
    names = ("healthy", "NaN input", "NaN gradient")
    given = {name: inputs.copy() for name in names}
    given["NaN input"][batch // 3] = np.nan
    given["NaN gradient"][batch // 3] = 0.0
    runs, counts = {}, {}
    for name, loss_fn in {
        "plain mean": mean_of(large_loss),
        "drop_bad_samples": drop_bad_samples(large_loss),
    }.items():
        train = make_train_step(loss_fn, programs.adamw())
        start = time.process_time()
        state = train.init(params, (jnp.asarray(inputs), labels))
        key = jax.random.key(0)
        lowered = train.step.lower(state, (jnp.asarray(inputs), labels), key)
        compiled = lowered.compile()
        seconds = time.process_time() - start
        counts[name] = _counts(compiled, programs.bytes_of(params), seconds)
        for label, these in given.items():
            if label == "healthy" or name != "plain mean":
                samples = jnp.asarray(these), labels
                state = train.init(params, samples)
                runs[f"{name}, {label}"] = _runner(compiled, state, samples, key)
    ratios = timing.interleave(runs, "plain mean, healthy", rounds)
    for name, ratio in ratios.items():
        yield {
            "what": "cost",
            "program": name,
            "batch": batch,
            "rounds": rounds,
            "steps_per_round": CALLS,
            **ratio._asdict(),
            **counts[name.split(",")[0]],
            "load": [round(load, 1) for load in os.getloadavg()],
        }


def _counts(compiled: Any, unit: int, seconds: float) -> dict[str, float]:
    analysis = compiled.cost_analysis()
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return {
        "xla_bytes": round(programs.accessed(compiled) / unit, 3),
        "xla_flops": float(analysis["flops"]),
        "temporary": round(temporary / unit, 3),
        "compile_cpu_seconds": round(seconds, 2),
    }


def _runner(compiled: Any, state: Any, samples: Any, key: Any) -> Callable[[], None]:
    def run() -> None:
        nonlocal state
        for _ in range(CALLS):
            state, _ = compiled(state, samples, key)
        jax.block_until_ready(state)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["train", "cost"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 512])
    parser.add_argument("--out", type=pathlib.Path, default=RESULTS)
    arguments = parser.parse_args()
    rows: Any = (
        train_rows(arguments.seeds)
        if arguments.what == "train"
        else (r for b in arguments.batches for r in cost_rows(b, arguments.rounds))
    )
    command = f"python benchmarks/drop_bad_samples.py {arguments.what}"
    with arguments.out.open("a") as file:
        for row in rows:
            line = json.dumps(row | {"command": command} | facts())
            print(line, file=file, flush=True)
            print(line, flush=True)


if __name__ == "__main__":
    main()
