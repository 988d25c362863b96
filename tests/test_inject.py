"""The fault injector: exact faults, exact places, exact times, and nothing when off."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import KEY, batch_of, bits, model_state, params_of, rows_of, stateful_loss
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from stabjax import inject, make_train_step
from stabjax.inject import Fault, into_loss, into_state

LEAF = np.asarray([0.5, -3.0, 2e20, 1e-30], np.float32)


def trained(loss_fn):
    return make_train_step(loss_fn, optax.adam(1e-2), window=8, form="branch")


def start(train):
    return train.init(params_of(), batch_of(), model_state=model_state())


def after(train, steps):
    state = start(train)
    for step in range(steps):
        state, _ = train.step(state, batch_of(step), KEY)
    return state


@pytest.mark.parametrize(
    ("faults", "enabled"), [((), True), ((Fault("nan", "loss"),), False)]
)
def test_when_off_the_loss_is_the_same_object_and_the_program_the_same_text(
    faults, enabled
):
    loss = into_loss(stateful_loss, *faults, enabled=enabled)
    assert loss is stateful_loss
    plain, off = (
        train.step.lower(start(train), batch_of(), KEY).as_text()
        for train in (trained(stateful_loss), trained(loss))
    )
    assert off == plain


def test_a_fault_that_does_not_happen_changes_no_bit():
    places = ("loss", "aux/raw/task", "aux/output", "aux/model_state", "batch/x")
    faults = [Fault("nan", where, when=99) for where in (*places, "gradient")]
    plain = jax.value_and_grad(stateful_loss, has_aux=True)(
        params_of(), batch_of(1), KEY, model_state=model_state()
    )
    assert bits(graded(*faults)) == bits(plain)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_values_of_each_kind(dtype):
    leaf = jnp.asarray(np.minimum(LEAF, 1e4), dtype)
    whole = lambda kind, **given: into_state(leaf, Fault(kind, "parameters", **given))
    assert np.all(np.isnan(whole("nan")))
    assert np.all(np.asarray(whole("inf"), float) == np.inf)
    assert np.all(np.asarray(whole("-inf"), float) == -np.inf)
    np.testing.assert_array_equal(whole("spike", factor=4.0), leaf * 4)
    assert np.all(np.asarray(whole("frozen", value=0.25), float) == 0.25)
    large = whole("overflow")
    assert large.dtype == leaf.dtype
    assert np.all(np.isfinite(np.asarray(large, float)))
    assert np.all(np.isinf(jnp.square(large)))


@given(element=st.integers(-4, 3), bit=st.integers(0, 31))
def test_a_bit_flip_is_that_bit_of_that_element_and_undoes_itself(element, bit):
    fault = Fault("bit_flip", "leaf", element=element, bit=bit)
    pattern = LEAF.view(np.uint32).copy()
    pattern[element] ^= np.uint32(1 << bit)
    once = into_state({"leaf": jnp.asarray(LEAF)}, fault)
    assert np.asarray(once["leaf"]).tobytes() == pattern.tobytes()
    back = into_state(once, fault)["leaf"]
    assert np.asarray(back).tobytes() == LEAF.tobytes()


@pytest.mark.parametrize(
    ("when", "steps"),
    [
        (3, [3]),
        (range(2, 5), [2, 3, 4]),
        (range(1, 10**12, 4), [1, 5, 9]),
        (inject.ALWAYS, list(range(12))),
        (lambda step: step > 9, [10, 11]),
    ],
)
def test_a_fault_happens_when_it_is_due_and_at_no_other_step(when, steps):
    fault = Fault("nan", "x", when=when)
    fires = jax.jit(lambda step: into_state({"x": jnp.ones(())}, fault, step=step)["x"])
    found = [step for step in range(12) if np.isnan(fires(jnp.int32(step)))]
    assert found == steps


def test_sometimes_is_a_share_of_the_steps_and_the_same_in_every_run():
    when = inject.sometimes(0.2, jax.random.key(7))
    first, second = (
        np.asarray(jax.vmap(when)(jnp.arange(4000, dtype=jnp.int32))) for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)
    assert abs(first.mean() - 0.2) < 4 * np.sqrt(0.2 * 0.8 / 4000)


def graded(*faults, step=0):
    broken = into_loss(stateful_loss, *faults)
    whole = jax.value_and_grad(broken, has_aux=True)
    return whole(params_of(), batch_of(1), KEY, step=step, model_state=model_state())


def test_each_fault_is_of_one_place_alone():
    kept = Fault("nan", "loss", when=9)
    (loss, aux), gradient = graded(kept)
    (bad_loss, _), same = graded(Fault("inf", "loss"))
    assert bad_loss == np.inf
    assert bits(same) == bits(gradient)
    (same_loss, _), bad = graded(Fault("spike", "gradient/core", factor=8.0))
    assert same_loss == loss
    np.testing.assert_array_equal(bad["core"]["bias"], 8 * gradient["core"]["bias"])
    np.testing.assert_array_equal(bad["head"]["out"], gradient["head"]["out"])
    (same_loss, bad_aux), same = graded(
        Fault("nan", "aux/raw/task"), Fault("frozen", "aux/output", value=3.0)
    )
    assert same_loss == loss
    assert bits(same) == bits(gradient)
    assert np.isnan(bad_aux["raw/task"])
    assert bad_aux["output"] == 3.0
    assert bad_aux["weighted/task"] == aux["weighted/task"]
    (bad_loss, _), bad = graded(Fault("nan", "batch/x", element=0))
    assert np.isnan(bad_loss)
    assert np.isnan(bad["head"]["out"])


def test_an_element_of_every_leaf_under_a_prefix_is_hit():
    _, gradient = graded(Fault("nan", "gradient/core", element=-1))
    core = gradient["core"]
    assert np.isnan(core["bias"][-1])
    assert np.isnan(core["kernel"][-1, -1])
    assert np.isnan(jax.tree.leaves(gradient)[0]).sum() == 1
    assert np.isfinite(gradient["head"]["out"])


def test_a_compiled_step_sees_each_fault_at_its_step():
    faults = (
        Fault("nan", "gradient/core/kernel", when=1, element=3),
        Fault("inf", "loss", when=2),
        Fault("nan", "aux/model_state/mean", when=3, element=1),
        Fault("nan", "aux/output", when=4),
        Fault("overflow", "gradient/head/out", when=5),
    )
    rows = rows_of(after(trained(into_loss(stateful_loss, *faults)), 7))
    assert [row["accepted"] for row in rows] == [1, 0, 0, 0, 1, 0, 1]
    assert np.isnan(rows[4]["output"])
    assert rows[5]["grad_norm"] == 2.0**100


def test_moments_and_parameters_of_a_state_are_damaged_between_steps():
    train = trained(stateful_loss)
    state = after(train, 2)
    bad = into_state(
        state,
        Fault("inf", "opt_state/0/nu/core/kernel", element=2),
        Fault("bit_flip", "params/head/out", element=0, bit=31),
        Fault("nan", "model_state/mean"),
    )
    assert np.isinf(bad.opt_state[0].nu["core"]["kernel"]).sum() == 1
    assert bad.params["head"]["out"] == -state.params["head"]["out"]
    assert np.all(np.isnan(bad.model_state["mean"]))
    assert bits(bad.opt_state[0].mu) == bits(state.opt_state[0].mu)
    state, _ = train.step(bad, batch_of(3), KEY)
    assert state.telemetry is not None  # a damaged state is a state like any other


def test_a_fault_on_one_shard_hits_that_shard_alone():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    shard = inject.Shard("data", 3)

    def loss(params, batch, key):
        del key
        return jnp.sum(params * batch), {}

    def local(params, batch):
        broken = into_loss(
            loss,
            Fault("nan", "batch", element=0, shard=shard),
            Fault("frozen", "gradient", value=7.0, shard=shard),
        )
        (value, _), gradient = jax.value_and_grad(broken, has_aux=True)(
            params, batch, None, step=0
        )
        return value[None], gradient[None]

    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("data")), out_specs=P("data"),
        check_vma=False,
    )  # fmt: skip
    values, gradients = jax.jit(mapped)(jnp.ones((2,)), jnp.ones((16,)))
    assert np.isnan(values).tolist() == [index == 3 for index in range(8)]
    assert np.asarray(gradients == 7.0).all(axis=1).tolist() == [
        index == 3 for index in range(8)
    ]


def test_a_fault_on_one_shard_is_refused_by_one_decision_of_all():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    fault = Fault("nan", "batch", when=1, element=0, shard=inject.Shard("data", 5))

    def local(params, batch, key):
        del key
        error = jnp.mean((batch @ params["w"]) ** 2)
        return jax.lax.pmean(error, "data"), {}

    broken = into_loss(local, fault)

    def loss(params, batch, key, *, step):
        mapped = jax.shard_map(
            lambda p, b, s: broken(p, b, None, step=s)[0],
            mesh=mesh, in_specs=(P(), P("data"), P()), out_specs=P(),
        )  # fmt: skip
        return mapped(params, batch, step), {}

    loss.wants_step = True
    train = make_train_step(loss, optax.sgd(0.1), window=4)
    rows = jnp.ones((8, 3))
    state = train.init({"w": jnp.ones(3)}, rows)
    for _ in range(3):
        state, _ = train.step(state, rows, KEY)
    assert [row["accepted"] for row in rows_of(state)] == [1, 0, 1]
    shards = state.params["w"].addressable_shards
    copies = {np.asarray(shard.data).tobytes() for shard in shards}
    assert len(copies) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"where": ""}, "where must be a path"),
        ({"where": "gradeint/core"}, "one of loss, .*did you mean 'gradient'"),
        ({"where": "gradient/core/kernal"}, "did you mean 'gradient/core/kernel'"),
        ({"where": "aux/model_state/seen"}, "no floating-point leaf"),
        ({"where": "gradient/core/bias", "element": 3}, r"must be in \[-3, 2\]"),
        ({"kind": "bit_flip"}, "must name an element"),
        ({"kind": "bit_flip", "element": 0, "bit": 32}, "below the width"),
        ({"factor": np.inf}, "factor must be finite"),
        ({"bit": 64}, r"bit must be in \[0, 63\]"),
        ({"when": range(5, 0, -1)}, "when must go forward"),
    ],
)
def test_a_fault_that_cannot_happen_is_refused_with_what_is_valid(given, message):
    given = {"kind": "nan", "where": "gradient"} | given
    with pytest.raises(ValueError, match=message):
        graded(Fault(**given))


def test_a_probability_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 2"):
        inject.sometimes(2.0, KEY)


def test_a_kind_misspelt_is_answered_with_the_nearest():
    fault = Fault("nan", "loss")
    object.__setattr__(fault, "kind", "spiek")  # the type checker of the tests is off
    with pytest.raises(ValueError, match=r"kind must be one of .*did you mean 'spike'"):
        fault.__post_init__()
