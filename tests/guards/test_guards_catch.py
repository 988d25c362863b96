"""Every guard catches the fault it is there for, put in on purpose at a known step."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, all_finite, rows_of

from stabjax import make_train_step
from stabjax.guards import GUARDS
from stabjax.inject import Fault, into_loss
from stabjax.types import Alert

STEPS, AT = 60, 40
SHAPE = (STEPS, 16, 4)

pytestmark = pytest.mark.slow


class Case(NamedTuple):
    """A fault, and what the guard has to say to it, never before and then."""

    options: dict[str, Any]
    faults: tuple[Fault, ...]
    alert: Alert
    step: int = AT
    accepted: bool = True
    snapshot_every: int | None = None


BROKEN = Fault("nan", "gradient/w", when=AT, element=1)
STEEP = Fault("spike", "gradient", when=AT, factor=1e6)


def broken_for(steps, kind="nan"):
    return Fault(kind, "gradient/w", when=range(AT, AT + steps), element=1)


def stuck(metric, value, steps=1):
    return Fault("frozen", f"aux/{metric}", when=range(AT, AT + steps), value=value)


CASES = {
    "back_off": Case({"after": 1}, (BROKEN,), Alert.BACK_OFF, step=AT + 1),
    "clip_by_block_rms": Case({"threshold": 100.0}, (STEEP,), Alert.CLIPPED),
    "clip_by_global_norm": Case({"max_norm": 100.0}, (STEEP,), Alert.CLIPPED),
    "clip_by_group_norm": Case(
        {"max_norm": 100.0, "groups": ["w"]},
        (Fault("overflow", "gradient/w", when=AT, element=0),),
        Alert.CLIPPED,
    ),
    "clip_update_spikes": Case({}, (STEEP,), Alert.UPDATE_SPIKE),
    "dynamic_loss_scale": Case(
        {"initial": 1024.0}, (broken_for(1, "inf"),), Alert.LOSS_SCALE, accepted=False
    ),
    "empty_set": Case(
        {"metric": "valid"}, (stuck("valid", 0.0),), Alert.EMPTY, accepted=False
    ),
    "dead_gradient": Case(
        {"metric": "norm", "patience": 2},
        (stuck("norm", 0.0, steps=2),),
        Alert.DEAD_GRADIENT,
        step=AT + 1,
    ),
    "escalate": Case(
        {"roll_back_after": 3},
        (broken_for(3),),
        Alert.ROLLBACK,
        step=AT + 3,
        accepted=False,
        snapshot_every=4,
    ),
    "metric_range": Case(
        {"metric": "share", "low": 0.05, "patience": 2},
        (stuck("share", 0.0, steps=2),),
        Alert.OUT_OF_RANGE,
        step=AT + 1,
    ),
    "reduce_on_plateau": Case(
        {"patience": 8, "accumulation_size": 1},
        (Fault("frozen", "loss", when=range(AT, STEPS), value=9.0),),
        Alert.PLATEAU,
        step=AT + 5,
    ),
    "repair_nonfinite": Case({"max_share": 0.5}, (BROKEN,), Alert.REPAIRED),
    "reset_moments": Case(
        {"after_refusals": 2},
        (broken_for(2),),
        Alert.MOMENTS_RESET,
        step=AT + 2,
    ),
    "saturation": Case(
        {"metric": "share", "patience": 3},
        (stuck("share", 0.9, steps=3),),
        Alert.SATURATED,
        step=AT + 2,
    ),
    "sentinel": Case(
        {"metric": "distance"}, (stuck("distance", -1.0),), Alert.SENTINEL
    ),
    "skip_large": Case(
        {"max_norm": 1e4}, (STEEP,), Alert.GRADIENT_SPIKE, accepted=False
    ),
    "skip_nonfinite": Case(
        {"max_consecutive": 3},
        (Fault("nan", "loss", when=range(AT, AT + 3)),),
        Alert.HALT,
        step=AT + 2,
        accepted=False,
    ),
    "skip_spikes": Case({}, (STEEP,), Alert.GRADIENT_SPIKE, accepted=False),
    "trivial_baseline": Case(
        {"baseline": 4.0, "margin": 0.5, "patience": AT + 1},
        (Fault("frozen", "gradient"),),
        Alert.TRIVIAL,
    ),
    "update_ratio_band": Case(
        {"high": 0.5, "patience": 1}, (STEEP,), Alert.UPDATE_RATIO, step=AT + 1
    ),
    "zclip": Case({}, (STEEP,), Alert.CLIPPED),
}


def loss_fn(params, batch, key):
    del key
    target = jnp.sum(batch, axis=1)
    error = jnp.mean((batch @ params["w"] + params["b"] - target) ** 2)
    aux = {"raw/error": error, "weighted/error": error}
    return error, aux | {"valid": 16.0, "share": 0.1, "distance": 1.0, "norm": 2.0}


def steps_of(name, faults=()):
    """Return state and rows of a run in which the faults happen."""
    case = CASES[name]
    train = make_train_step(
        into_loss(loss_fn, *faults),
        optax.sgd(0.02, momentum=0.5),
        guards=[GUARDS[name](**case.options)],
        window=STEPS,
        snapshot_every=case.snapshot_every,
    )
    batches = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    params = {"w": jnp.full((4,), 0.1), "b": jnp.zeros(())}
    state = train.init(params, batches[0])
    # Compiled in haste: it runs once.
    hasty = {"xla_backend_optimization_level": 0}
    many = jax.jit(train.many_steps, compiler_options=hasty)
    state, _ = many(state, batches, KEY)
    return state, rows_of(state)


@functools.cache
def broken_run(name):
    return steps_of(name, CASES[name].faults)


@pytest.mark.parametrize("name", sorted(GUARDS))
def test_the_fault_is_caught_at_its_step_and_nothing_is_before(name):
    if name not in CASES:
        pytest.skip(f"no fault is named that {name} is there for")
    case = CASES[name]
    state, rows = broken_run(name)
    said = [bool(row["alerts"] & case.alert) for row in rows]
    assert said.index(True) == case.step
    assert bool(rows[case.step]["accepted"]) is case.accepted
    assert all_finite(state.params)


def test_without_the_guard_the_same_steep_gradient_ends_the_run():
    train = make_train_step(
        into_loss(loss_fn, STEEP), optax.sgd(0.02, momentum=0.5), window=STEPS
    )
    batches = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    params = {"w": jnp.full((4,), 0.1), "b": jnp.zeros(())}
    state, _ = train.many_steps(train.init(params, batches[0]), batches, KEY)
    loss = [row["loss"] for row in rows_of(state)]
    assert loss[AT + 1] > 1e6 * loss[AT]
