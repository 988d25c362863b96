"""A model that compiles in a moment and fails on request."""

import sys
import types
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pydantic
import pytest

import stabjax.models
from stabjax.config import RunConfig, loads
from stabjax.models.task import Summary, Task
from stabjax.train_step import make_train_step

TEXT = """
model: {name: tiny}
train: {steps: 12, window: 4, checkpoint_every: 0}
optimizer: {kind: sgd, learning_rate: 0.1}
guards: [{kind: skip_nonfinite, max_consecutive: 3}]
compare:
  seeds: [0, 1]
  arms:
    before: [guards=null, model.bad_from=6]
    "halts soon": [model.bad_from=5]
    sound: []
  ablate:
    guards: ["guards=[{kind: skip_nonfinite, max_consecutive: 50}]"]
"""


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    bad_from: int = 1000


def build(config, *, optimizer, guards, window, seed, **snapshots) -> Task:
    del snapshots

    def loss_fn(params, batch, key):
        del key
        error = jnp.mean((params["w"] - batch["x"]) ** 2)
        loss = error / jnp.where(batch["position"] >= config.bad_from, 0.0, 1.0)
        return loss, {"raw/error": loss, "weighted/error": loss}

    train = make_train_step(loss_fn, optimizer, guards=guards, window=window)

    def batch_at(position: int) -> dict:
        draw = np.random.default_rng([seed, position])
        x = draw.normal(size=4).astype(np.float32)
        return {"x": x, "position": np.int32(position)}

    def init(key):
        return train.init({"w": jax.random.normal(key, (4,))}, batch_at(0))

    def evaluate(state) -> dict[str, float]:
        return {"size": float(jnp.linalg.norm(state.params["w"]))}

    return Task(train=train, init=init, batch_at=batch_at, evaluate=evaluate)


@pytest.fixture(scope="session")
def tiny() -> Iterator[types.ModuleType]:
    module = types.ModuleType("tiny_model")
    members = {
        "Config": Config,
        "build": build,
        "CURVES": ("loss",),
        "SUMMARY": (
            Summary("lowest loss", "loss", "min"),
            Summary("bad losses", "loss", "count_nonfinite"),
            Summary("size of w", "size", "eval"),
        ),
    }
    for name, member in members.items():
        setattr(module, name, member)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tiny_model", module)
        patch.setitem(stabjax.models.MODELS, "tiny", "tiny_model")
        yield module


@pytest.fixture(scope="session")
def config(tiny) -> Callable[..., RunConfig]:
    def make(*overrides: str) -> RunConfig:
        return loads(TEXT, overrides, source="tiny.yaml")

    return make
