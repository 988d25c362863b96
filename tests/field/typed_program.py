"""A training program with types, as a user writes one; read by type checkers alone."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

# Optax says nothing of its types to a type checker.
import optax  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

import stabjax
from stabjax import guards, inject, loss_transforms, losses, transforms
from stabjax.types import Guard, Loss, LossFn

Params = dict[str, jax.Array]
Batch = dict[str, jax.Array]
Report = dict[str, jax.Array]


def bare(params: Params, batch: Batch, key: jax.Array) -> jax.Array:
    return jnp.mean((batch["x"] @ params["w"] - batch["y"]) ** 2)


def reporting(params: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, Report]:
    loss = bare(params, batch, key)
    return loss, {"raw/fit": loss, "weighted/fit": loss}


def two_arguments(params: Params, batch: Batch) -> jax.Array:
    return jnp.sum(params["w"] ** 2)


def without_report(params: Params, batch: Batch) -> tuple[jax.Array, None]:
    return two_arguments(params, batch), None


def stateful(
    params: Params, batch: Batch, key: jax.Array, *, model_state: jax.Array
) -> tuple[jax.Array, Report]:
    return bare(params, batch, key), {"model_state": model_state + 1}


def scheduled(params: Params, batch: Batch, *, step: jax.Array) -> jax.Array:
    return two_arguments(params, batch) * step


def key_by_name(params: Params, batch: Batch, *, key: jax.Array) -> jax.Array:
    return bare(params, batch, key)


def full(
    params: Any, batch: Any, key: Any, /, **kwargs: Any
) -> tuple[jax.Array, Report]:
    return bare(params, batch, key), {}


@dataclasses.dataclass(frozen=True)
class Weighted:
    weight: float

    def __call__(
        self, params: Params, batch: Batch, key: jax.Array
    ) -> tuple[jax.Array, dict[str, float]]:
        return self.weight * bare(params, batch, key), {"weight": self.weight}

    def bound(self, params: Params, batch: Batch) -> jax.Array:
        return self.weight * two_arguments(params, batch)


jitted = jax.jit(bare)  # pyright: ignore[reportUnknownMemberType]
total = losses.combine(
    {"fit": bare, "size": two_arguments}, weights={"fit": 1.0, "size": 1e-3}
)
kept = loss_transforms.drop_nonfinite_component(total)
broken = inject.into_loss(kept, inject.Fault("nan", "gradient/w", when=3))
uniform: LossFn = full
forms: list[Loss] = [
    bare,
    reporting,
    two_arguments,
    without_report,
    stateful,
    scheduled,
    key_by_name,
    uniform,
    Weighted(2.0),
    Weighted(2.0).bound,
    functools.partial(bare),
    jitted,
    total,
    kept,
    broken,
]
listed: list[Guard] = [guards.clip_by_global_norm(1.0), guards.skip_spikes()]


def train_steps() -> list[stabjax.TrainStep]:
    optimizer = optax.adamw(1e-2)
    return [
        stabjax.make_train_step(bare, optimizer),
        stabjax.make_train_step(reporting, optimizer, guards=listed),
        stabjax.make_train_step(two_arguments, optimizer, guards=guards.back_off()),
        stabjax.make_train_step(without_report, optimizer, guards=(*listed, listed)),
        stabjax.make_train_step(stateful, optimizer, guards=None),
        stabjax.make_train_step(scheduled, optimizer, guards=[listed[0], listed]),
        stabjax.make_train_step(key_by_name, optimizer, window=10, form="branch"),
        stabjax.make_train_step(full, optimizer),
        stabjax.make_train_step(Weighted(2.0), optimizer),
        stabjax.make_train_step(Weighted(2.0).bound, optimizer),
        stabjax.make_train_step(functools.partial(bare), optimizer),
        stabjax.make_train_step(jitted, optimizer),
        stabjax.make_train_step(total, optimizer),
        stabjax.make_train_step(kept, optimizer),
        stabjax.make_train_step(broken, optimizer),
    ]


def train(params: Params, batch: Batch) -> Params:
    train = train_steps()[0]
    state = train.init(params, batch)
    for _ in range(3):
        state, row = train.step(state, batch, jax.random.key(0))
        print(row.floats.shape)
    rows = stabjax.health.decode(
        train.schema(state), state.telemetry.floats, state.telemetry.ints
    )
    print(stabjax.health.names_of(rows[-1]["alerts"]), train.audit(state))
    trained: Params = state.params
    return trained


def train_by_hand(
    params: optax.Params, gradients: optax.Updates, loss: jax.Array
) -> optax.Params:
    optimizer = stabjax.guard(optax.adamw(1e-2), guards.clip_by_global_norm(), listed)
    inside = transforms.accumulate(transforms.adamw(1e-3, guards=listed), 4, listed)
    chained = optax.chain(transforms.clip_by_global_norm(1.0), inside)
    wrapped = transforms.skip_spikes(optax.sgd(0.1), deviations=4.0)
    print(chained, wrapped, transforms.zclip(2.0))
    opt_state = optimizer.init(params)
    updates, opt_state = optimizer.update(gradients, opt_state, params, value=loss)
    return optax.apply_updates(params, updates)
