"""The loss scale: what survives float16, the dynamics, and the floor through jit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from helpers import (
    KEY,
    batch_of,
    gradient_with,
    judge_series,
    rows_of,
    run,
    train_face,
)

from stabjax.guards import dynamic_loss_scale, repair_nonfinite
from stabjax.train_step import make_train_step
from stabjax.transforms import guard
from stabjax.types import Alert

SCALE, HALT = int(Alert.LOSS_SCALE), int(Alert.HALT)
OVERFLOW = batch_of(9, gradient=gradient_with(np.inf))


def scales_of_megatron(
    overflows,
    *,
    initial=2.0**15,
    growth_interval,
    factor=2.0,
    hysteresis=1,
    floor=1.0,
    ceiling=2.0**24,
):
    """Return the scale after each step, restated from Megatron's scaler."""
    scale, good, left, scales = initial, 0, hysteresis, []
    for overflow in overflows:
        if overflow:
            good, left = 0, left - 1
            scale = max(scale / factor, floor) if left <= 0 else scale
        else:
            good += 1
            if good == growth_interval:
                good, left = 0, hysteresis
                scale = min(scale * factor, ceiling)
        scales.append(scale)
    return scales


def series_of(given, overflows, **others):
    return judge_series(given, grad_norm=np.where(overflows, np.inf, 1.0), **others)


OPTIONS = [
    {"growth_interval": 3},
    {"growth_interval": 4, "hysteresis": 3, "factor": 4.0},
    {"growth_interval": 2, "hysteresis": 2, "floor": 2.0**13, "ceiling": 2.0**16},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_the_scale_is_that_of_megatron_for_random_overflows(options, share):
    overflows = np.random.default_rng(0).random(200) < share
    trace = series_of(dynamic_loss_scale(**options), overflows)
    exact = np.asarray(scales_of_megatron(overflows, **options))
    np.testing.assert_array_equal(trace.state.scale, exact)
    lowered = np.diff(exact, prepend=2.0**15) < 0
    assert ((trace.alerts & SCALE) != 0)[lowered].all()
    np.testing.assert_array_equal(trace.accepted, ~overflows)
    assert trace.state.overflows[-1] == overflows.sum()


def test_a_loss_that_is_not_finite_says_nothing_about_the_scale():
    losses, norms = np.ones(20), np.ones(20)
    losses[5:15], norms[5:10] = np.nan, np.nan
    trace = judge_series(
        dynamic_loss_scale(growth_interval=8), loss=losses, grad_norm=norms
    )
    assert (trace.state.scale[:17] == 2.0**15).all()
    # The ten steps are not counted as good ones either.
    assert trace.state.scale[17] == 2.0**16


def test_an_overflow_that_another_guard_repaired_still_lowers_the_scale():
    repaired = np.zeros(10)
    repaired[4] = 3
    trace = judge_series(dynamic_loss_scale(), repaired=repaired)
    assert trace.accepted.all()
    assert trace.state.scale[4] == 2.0**14


@pytest.mark.parametrize("on_floor", ["alert", "halt"])
def test_at_the_floor_a_further_overflow_is_said_and_halts_where_asked(on_floor):
    options = {"initial": 4.0, "floor": 1.0, "on_floor": on_floor}
    overflows = np.arange(10) >= 2
    trace = series_of(dynamic_loss_scale(**options), overflows)
    assert trace.state.scale[2:].tolist() == [2.0] + [1.0] * 7
    assert ((trace.alerts & SCALE) != 0).tolist() == overflows.tolist()
    assert trace.state.at_floor[-1] == 6
    halts = list(range(4, 10)) if on_floor == "halt" else []
    assert trace.halt.nonzero()[0].tolist() == halts


@functools.cache
def falling(form):
    options = {"floor": 2.0**13, "hysteresis": 2, "growth_interval": 3}
    return train_face([dynamic_loss_scale(**options)], form)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_floor_and_hysteresis_survive_jit_and_a_restored_state(form):
    face = falling(form)
    state = run(face, [OVERFLOW] * 4)
    restored = jax.tree.map(jnp.array, jax.tree.map(np.asarray, state))
    with compilations() as compiled:
        floored = run(face, [OVERFLOW] * 3, restored)
        grown = run(face, [batch_of(step) for step in range(3)], floored)
        end = run(face, [OVERFLOW], grown)
    assert not compiled
    rows = rows_of(end)
    scales = [row["dynamic_loss_scale/scale"] for row in rows]
    # Eight rows of eleven are left in the window.
    assert scales == [2.0**13] * 6 + [2.0**14] * 2
    assert rows[-1]["dynamic_loss_scale/tolerance"] == 1


def half_precision_loss(params, batch, key):
    """Return a loss whose gradient, 1e-8 in float16, is below the smallest number."""
    del key
    hidden = params["w"].astype(jnp.float16) * jnp.float16(1e-4)
    loss = jnp.sum(hidden) * batch.astype(jnp.float16)
    return loss.astype(jnp.float32), {}


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_gradient_too_small_for_float16_arrives(form):
    def moved(guards):
        train = make_train_step(
            half_precision_loss, optax.sgd(1e6), guards=guards, form=form
        )
        state = train.init({"w": jnp.ones(3)}, jnp.float32(1e-4))
        state, _ = train.step(state, jnp.float32(1e-4), KEY)
        return 1.0 - np.asarray(state.params["w"]), rows_of(state)[-1]

    lost, _ = moved([])
    kept, row = moved([dynamic_loss_scale()])
    assert not lost.any()
    np.testing.assert_allclose(kept, 1e-2, rtol=2e-3)
    # What the telemetry says is in true units.
    np.testing.assert_allclose(row["grad_norm"], 1e-8 * np.sqrt(3), rtol=2e-3)


def test_a_scale_that_overflows_float16_finds_the_largest_that_does_not():
    train = make_train_step(
        half_precision_loss, optax.sgd(1.0), guards=[dynamic_loss_scale()], window=16
    )
    state = train.init({"w": jnp.ones(3)}, jnp.float32(1.0))
    # The sum of the backward pass is 2**15 * 64, far above 65504.
    for _ in range(12):
        state, _ = train.step(state, jnp.float32(64.0), KEY)
    rows = rows_of(state)
    applied = [row["accepted"] for row in rows]
    refused = applied.index(1)
    assert refused >= 5
    assert all(applied[refused:])
    assert rows[-1]["dynamic_loss_scale/scale"] == 2.0 ** (15 - refused)


def test_it_needs_a_train_step():
    with pytest.raises(ValueError, match="dynamic_loss_scale scales the loss"):
        guard(optax.sgd(1.0), dynamic_loss_scale())


def test_repairing_and_scaling_go_together_in_a_step():
    guards = [dynamic_loss_scale(), repair_nonfinite(max_share=0.2)]
    rows = rows_of(run(train_face(guards, "select"), [batch_of(0), OVERFLOW]))
    assert rows[-1]["accepted"] == 1
    assert rows[-1]["dynamic_loss_scale/scale"] == 2.0**14
    assert rows[-1]["alerts"] == SCALE | int(Alert.REPAIRED)
    assert np.isfinite(rows[-1]["grad_norm"])
