"""A loss works in every form people write it in, or the error says what to write."""

import dataclasses
import functools
import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compilations import compilations
from flax import linen, nnx
from flax.training.train_state import TrainState
from helpers import bits, rows_of

import stabjax
from stabjax import guards, inject, losses, transforms
from stabjax.core.loss_form import uniform

PARAMS = {"w": jnp.asarray([1.0, -2.0, 3.0])}
KEY = jax.random.key(0)
BATCH = np.float32(2.0)


def square(params, batch):
    return batch * jnp.sum(params["w"] ** 2)


def noisy(params, batch, key, scale=1.0):
    return scale * square(params, batch) + jax.random.normal(key)


def scaled(factor, params, batch):
    return factor * square(params, batch)


def counting(params, batch, model_state):
    return square(params, batch), {"model_state": model_state + 1}


class Callable:
    def __call__(self, params, batch, key):
        return noisy(params, batch, key)

    def bound(self, params, batch):
        return square(params, batch), None


@dataclasses.dataclass(frozen=True)
class Weighted:
    weight: float = 3.0

    def __call__(self, params, batch, *, key):
        return self.weight * noisy(params, batch, key), {"weight": self.weight}


def passed_on(function):
    """Return what a decorator returns that says nothing of its arguments."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return function(*args, **kwargs)

    return wrapper


def with_arguments_of_its_own(function):
    """Return what a decorator returns that is called otherwise than what it wraps."""

    @functools.wraps(function)
    def wrapper(params, batch, key):
        del key
        return function(params, batch)

    return wrapper


SQUARE = float(square(PARAMS, BATCH))
NOISY = float(noisy(PARAMS, BATCH, KEY))
FORMS = {
    "three arguments": (noisy, NOISY),
    "two arguments": (square, SQUARE),
    "aux is None": (lambda p, b, k: (noisy(p, b, k), None), NOISY),
    "aux is a mapping": (lambda p, b: (square(p, b), {"m": 1.0}), SQUARE),
    "an object": (Callable(), NOISY),
    "a bound method": (Callable().bound, SQUARE),
    "a dataclass with a key by name": (Weighted(), 3 * NOISY),
    "any number": (lambda *given: noisy(*given), NOISY),
    "any number behind the parameters": (lambda p, *given: noisy(p, *given), NOISY),
    "any number, and a key by name": (lambda *given, key: noisy(*given, key), NOISY),
    "any keywords": (lambda p, b, **rest: square(p, b) + len(rest), SQUARE),
    "a key that may be None": (lambda p, b, rng=None: noisy(p, b, rng), NOISY),
    "a key with a default": (lambda p, b, key=KEY: noisy(p, b, key), NOISY),
    "a key by name or None": (lambda p, b, *, rng=None: noisy(p, b, rng), NOISY),
    "a number with a default": (lambda p, b, c=2.0: c * square(p, b), 2 * SQUARE),
    "a network with a default": (lambda p, b, net=square: net(p, b), SQUARE),
    "a key and a default": (lambda p, b, k, net=noisy: net(p, b, k), NOISY),
    "partial of a number": (functools.partial(noisy, scale=2.0), NOISY + SQUARE),
    "partial of a key": (functools.partial(noisy, key=KEY), NOISY),
    "partial of a place": (functools.partial(scaled, 5.0), 5 * SQUARE),
    "jitted": (jax.jit(square), SQUARE),
    "rematerialized": (jax.checkpoint(noisy), NOISY),
    "decorated": (passed_on(square), SQUARE),
    "decorated with arguments": (with_arguments_of_its_own(square), SQUARE),
    "a Python number": (lambda p, b: 1.5, 1.5),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_loss_of_this_form_is_called_as_it_is_written(name):
    loss_fn, expected = FORMS[name]
    with jax.debug_key_reuse(False):
        loss, aux = uniform("test", loss_fn)(PARAMS, BATCH, KEY)
    assert float(loss) == pytest.approx(float(expected))
    assert isinstance(aux, dict)


@pytest.mark.parametrize("name", FORMS)
def test_a_train_step_takes_a_loss_of_this_form(name):
    train = stabjax.make_train_step(FORMS[name][0], optax.sgd(0.1))
    with jax.debug_key_reuse(False):
        state = train.init(PARAMS, BATCH)
        jax.eval_shape(train.step, state, BATCH, KEY)


def test_a_loss_without_key_and_aux_trains_as_the_full_form_does():
    full = stabjax.make_train_step(lambda p, b, k: (square(p, b), {}), optax.sgd(0.1))
    short = stabjax.make_train_step(square, optax.sgd(0.1))
    after = [t.step(t.init(PARAMS, BATCH), BATCH, KEY)[0] for t in (full, short)]
    assert bits(after[0].params) == bits(after[1].params)
    assert not np.array_equal(after[0].params["w"], PARAMS["w"])


@pytest.mark.parametrize(
    "loss_fn",
    [
        lambda p, b, k, *, model_state: counting(p, b, model_state),
        lambda p, b, *, model_state: counting(p, b, model_state),
        counting,
        lambda p, b, **given: counting(p, b, **given),
    ],
    ids=["with a key", "without", "in third place", "by any keyword"],
)
def test_a_stateful_loss_is_given_its_state_by_name(loss_fn):
    train = stabjax.make_train_step(loss_fn, optax.sgd(0.1))
    state = train.init(PARAMS, BATCH, model_state=jnp.float32(3.0))
    shapes, _ = jax.eval_shape(train.step, state, BATCH, KEY)
    assert shapes.model_state.shape == ()
    call = uniform("test", loss_fn)
    assert float(call(PARAMS, BATCH, KEY, model_state=3.0)[1]["model_state"]) == 4.0


def test_a_loss_that_asks_for_the_step_is_given_it():
    for loss_fn in (
        lambda p, b, k, *, step: square(p, b) * step,
        lambda p, b, step: square(p, b) * step,
    ):
        train = stabjax.make_train_step(loss_fn, optax.sgd(0.1))
        state = train.init(PARAMS, BATCH)
        jax.eval_shape(train.step, state, BATCH, KEY)
        assert (
            float(uniform("test", loss_fn)(PARAMS, BATCH, KEY, step=3)[0]) == 3 * SQUARE
        )


def test_a_partial_of_a_loss_that_wants_the_step_still_wants_it():
    def loss_fn(params, batch, key, *, scale, **given):
        return scale * square(params, batch) * given["step"]

    loss_fn.wants_step = True
    assert uniform("test", functools.partial(loss_fn, scale=1.0)).wants_step
    fixed = functools.partial(loss_fn, scale=1.0, step=3)
    assert not uniform("test", fixed).wants_step


class Report(NamedTuple):
    first: float
    second: float


SCALAR = r"aux\['m'\] must be a scalar"
RESULTS = {
    "a tuple as aux": (lambda v: (v, (v, {})), r"a tuple of 2 as aux; write return l"),
    "an array as aux": (lambda v: (v, jnp.ones(3)), r"of shape \(3,\) as aux; write "),
    "a named tuple as aux": (lambda v: (v, Report(1.0, 2.0)), r"aux\._asdict\(\)"),
    "a list": (lambda v: [v, {}], "got a list of 2"),
    "three": (lambda v: (v, {}, {}), "got a tuple of 3; write return loss"),
    "a mapping": (lambda v: {"loss": v}, "got a mapping of 'loss'"),
    "the wrong way round": (lambda v: ({"m": v}, v), "'m' in place of the loss"),
    "nothing": (lambda v: None, "got None"),
    "a vector": (lambda v: jnp.ones(3), r"got shape \(3,\); write jnp\.mean\(loss\)"),
    "an integer": (lambda v: jnp.int32(3), r"got int32; write loss\.astype"),
    "a complex loss": (lambda v: v * 1j, r"got complex64; write jnp\.real\(loss\)"),
    "a metric of a batch": (
        lambda v: (v, {"m": jnp.ones(3)}),
        rf"{SCALAR}, got shape \(3,\); write jnp\.mean",
    ),
    "metrics of metrics": (
        lambda v: (v, {"m": {"n": v}}),
        rf"{SCALAR}, got a mapping; .* write {{'m/n': ",
    ),
    "a metric that is None": (lambda v: (v, {"m": None}), f"{SCALAR}, got None; leave"),
    "a metric that is text": (lambda v: (v, {"m": "x"}), f"{SCALAR}, got 'x'; leave"),
    "a metric that is a key": (
        lambda v: (v, {"m": jax.random.key(0)}),
        f"{SCALAR} of real numbers",
    ),
    "a metric without name": (lambda v: (v, {1: v}), "in aux must be text, got 1"),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_loss_that_returns_something_else_is_told_what_to_return(name):
    of, message = RESULTS[name]
    train = stabjax.make_train_step(lambda p, b: of(square(p, b)), optax.sgd(0.1))
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        train.init(PARAMS, BATCH)
    assert str(caught.value).startswith("make_train_step: ")
    assert "loss" in str(caught.value) or "aux" in str(caught.value)


@pytest.mark.parametrize(
    ("loss_fn", "message"),
    [
        (lambda params: 1.0, r"arguments \(params\); write lambda params, batch"),
        (lambda params, key, batch: 1.0, "second.* write lambda params, batch, key"),
        (lambda p, b, k, net: 1.0, r"asks for 'net' besides; write functools\.part"),
        (lambda p, b, net, *, key: 1.0, "asks for 'net' besides"),
    ],
)
def test_a_loss_with_other_arguments_is_refused_when_the_step_is_made(loss_fn, message):
    with pytest.raises(TypeError, match=f"^make_train_step: .*{message}"):
        stabjax.make_train_step(loss_fn, optax.sgd(0.1))


def test_a_model_state_that_one_side_does_not_know_of_is_told():
    train = stabjax.make_train_step(square, optax.sgd(0.1))
    with pytest.raises(
        TypeError, match="model_state was given, but the function square"
    ):
        train.init(PARAMS, BATCH, model_state=1.0)
    asks = lambda p, b, *, model_state: square(p, b)
    train = stabjax.make_train_step(asks, optax.sgd(0.1))
    with pytest.raises(
        TypeError, match=r"give it as init\(params, batch, model_state="
    ):
        train.init(PARAMS, BATCH)


def test_combine_and_inject_take_the_short_forms():
    total = losses.combine({"fit": square, "size": lambda p, b: (square(p, b), None)})
    loss, aux = total(PARAMS, BATCH, KEY)
    assert float(loss) == 2 * SQUARE
    assert float(aux["raw/fit"]) == SQUARE
    broken = inject.into_loss(square, inject.Fault("nan", "loss", when=3))
    train = stabjax.make_train_step(broken, optax.sgd(0.1))
    jax.eval_shape(train.step, train.init(PARAMS, BATCH), BATCH, KEY)
    assert np.isnan(broken(PARAMS, BATCH, KEY, step=3)[0])
    assert float(broken(PARAMS, BATCH, KEY, step=2)[0]) == SQUARE


# Leaves that no gradient moves: whole numbers float32 does not hold, and a mask.
COUNTED = PARAMS | {
    "seen": jnp.asarray(2**30 + 1, jnp.int32),
    "mask": jnp.asarray([True, False, True]),
    "seed": jnp.asarray([2**32 - 5], jnp.uint32),
}


@pytest.mark.parametrize("form", ["branch", "select"])
def test_integer_leaves_stay_as_they_are_and_the_others_train_as_without(form):
    listed = [guards.clip_by_global_norm(1.0), guards.escalate()]
    options = {"guards": listed, "snapshot_every": 2, "form": form}
    optimizer = optax.adamw(0.1, weight_decay=0.5)
    train = stabjax.make_train_step(square, optimizer, **options)
    ends = []
    for params in (PARAMS, COUNTED):
        state = train.init(params, BATCH)
        for batch in (BATCH, np.float32(np.nan), BATCH):
            state, _ = train.step(state, batch, KEY)
        core = train.guard_states(state)
        assert (core.applied, core.refused) == (2, 1)
        ends.append(state.params)
    # Another tree is another program, which may round otherwise.
    np.testing.assert_allclose(ends[0]["w"], ends[1]["w"], rtol=1e-6)
    for name in ("seen", "mask", "seed"):
        assert bits(ends[1][name]) == bits(COUNTED[name])


def test_a_gradient_taken_by_hand_may_leave_integer_leaves_out():
    train = stabjax.make_train_step(square, optax.adamw(0.1, weight_decay=0.5))
    gradient = jax.grad(square, allow_int=True)(COUNTED, BATCH)
    state = train.init(COUNTED, BATCH)
    ends = []
    for absent in (gradient, gradient | {"seen": None, "mask": None, "seed": None}):
        after, _ = train.apply_gradients(state, jnp.float32(1), None, absent)
        ends.append(after.params)
        assert int(after.params["seen"]) == 2**30 + 1
    assert bits(ends[0]) == bits(ends[1])
    assert not np.array_equal(ends[0]["w"], PARAMS["w"])


def test_a_random_key_among_the_parameters_is_named():
    train = stabjax.make_train_step(square, optax.sgd(0.1))
    with pytest.raises(TypeError, match="'rng' is a random key; give it in model_st"):
        train.init(PARAMS | {"rng": jax.random.key(1)}, BATCH)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(3, 2, rngs=rngs)
        self.norm = nnx.BatchNorm(2, rngs=rngs)


def whole_models():
    """Return models as their libraries hand them over, and what to say of each."""
    import equinox as eqx

    perceptron = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    divide = r"eqx\.partition\(model, eqx\.is_inexact_array\)"
    split = r"nnx\.split\(model, nnx\.Param, \.\.\.\)"
    return [
        (perceptron, rf"'activation' is the function relu\. .*{divide}"),
        ({"net": perceptron}, "'net/activation' is the function relu"),
        (Net(nnx.Rngs(0)), rf"'norm/mean' is a BatchStat; write .*{split}"),
        (nnx.state(Net(nnx.Rngs(0))), "'norm/mean' is a BatchStat"),
        (linen.Dense(3), r"is a Dense\. .*give model\.init\(key, x\)\['params'\]"),
        ({"w": jnp.ones(2), "name": "tanh"}, "'name' is 'tanh'. Take it out of"),
    ]


@pytest.mark.parametrize("index", range(6))
def test_a_whole_model_as_parameters_is_told_with_the_leaf_and_the_way_out(index):
    pytest.importorskip("equinox")
    model, message = whole_models()[index]
    train = stabjax.make_train_step(lambda p, b: 1.0, optax.adam(0.1))
    with pytest.raises(TypeError, match=f"^make_train_step: .*{message}"):
        train.init(model, BATCH)


def test_a_whole_nnx_module_of_parameters_alone_trains():
    train = stabjax.make_train_step(
        lambda net, batch: jnp.mean((net(batch["x"]) - batch["y"]) ** 2),
        optax.sgd(0.1),
    )
    batch = {"x": jnp.ones((4, 3)), "y": jnp.ones((4, 1))}
    state = train.init(nnx.Linear(3, 1, rngs=nnx.Rngs(0)), batch)
    for _ in range(3):
        state, _ = train.step(state, batch, KEY)
    losses_seen = [row["loss"] for row in rows_of(state)]
    assert losses_seen[2] < losses_seen[1] < losses_seen[0]


WRAPPED = {
    "guard": lambda: stabjax.guard(optax.adamw(0.1), guards.reset_moments(every=5)),
    "accumulate": lambda: transforms.accumulate(optax.adamw(0.1), 1),
    "adamw": lambda: transforms.adamw(0.1, guards=[guards.reset_moments(every=5)]),
    "flatten": lambda: transforms.flatten(optax.adamw(0.1)),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_an_optimizer_takes_a_whole_equinox_model_where_optax_does(name):
    eqx = pytest.importorskip("equinox")
    net = eqx.nn.MLP(3, 1, 4, 1, key=jax.random.key(0))
    optimizer = WRAPPED[name]()
    with pytest.raises(TypeError, match=rf"^{name}: .*'activation' is .*eqx\.filter\("):
        optimizer.init(net)
    moving = eqx.filter(net, eqx.is_inexact_array)
    gradient = jax.tree.map(jnp.ones_like, moving)
    ends = []
    for params in (net, moving):
        update = jax.jit(lambda g, s, p=params: optimizer.update(g, s, p))
        ends.append(update(gradient, optimizer.init(moving)))
    assert bits(ends[0]) == bits(ends[1])
    assert all(np.any(leaf) for leaf in jax.tree.leaves(ends[0][0]))


def test_the_error_for_a_loss_that_is_missing_knows_of_flax():
    optimizer = stabjax.guard(optax.sgd(0.1), guards.skip_spikes())
    state = TrainState.create(apply_fn=None, params=PARAMS, tx=optimizer)
    with pytest.raises(ValueError, match="pass it as value= to update") as caught:
        state.apply_gradients(grads=PARAMS, value=1.0)
    written = "state.tx.update(grads, state.opt_state, state.params, value=loss)"
    assert "TrainState.apply_gradients does not forward it" in str(caught.value)
    assert written in str(caught.value)
    # And what it says to write works.
    grads, loss = PARAMS, 1.0
    updates, _ = state.tx.update(grads, state.opt_state, state.params, value=loss)
    np.testing.assert_allclose(updates["w"], -0.1 * PARAMS["w"], rtol=1e-6)


def test_the_state_of_the_inner_optimizer_is_seen_through_the_guard():
    by_hand = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)
    optimizer = stabjax.guard(by_hand, guards.skip_spikes())
    state = optimizer.init(PARAMS)
    assert float(state.hyperparams["learning_rate"]) == np.float32(0.1)
    state.hyperparams["learning_rate"] = jnp.float32(0.5)
    updates, state = optimizer.update(PARAMS, state, PARAMS, value=1.0)
    np.testing.assert_allclose(updates["w"], -0.5 * PARAMS["w"])
    averaged = stabjax.guard(optax.contrib.schedule_free_sgd(0.1))
    evaluate = optax.contrib.schedule_free_eval_params
    state = averaged.init(PARAMS)
    expected = evaluate(state.inner_state, PARAMS)
    assert bits(evaluate(state, PARAMS)) == bits(expected)


def test_optax_finds_what_is_in_the_inner_state_once():
    optimizer = stabjax.guard(
        optax.adam(0.1),
        [guards.GUARDS[n]() for n in ("zclip", "skip_spikes", "back_off")],
    )
    state = optimizer.init(PARAMS)
    assert int(optax.tree.get(state, "count")) == 0
    assert bits(optax.tree.get(state, "mu")) == bits({"w": jnp.zeros(3)})
    state = optax.tree.set(state, count=jnp.int32(7))
    assert int(state.inner_state[0].count) == 7


def test_what_neither_state_has_is_told_and_private_names_are_not_passed_on():
    state = stabjax.guard(optax.sgd(0.1)).init(PARAMS)
    with pytest.raises(AttributeError, match="'hyperparams'; the state of the inner"):
        _ = state.hyperparams
    with pytest.raises(AttributeError):
        _ = state.__jax_array__
    leaves, structure = jax.tree.flatten(state)
    assert jax.tree.unflatten(structure, leaves)._fields == state._fields


def warnings_of(caplog):
    return [
        record.getMessage() for record in caplog.records if record.name == "stabjax"
    ]


def test_a_batch_of_another_shape_is_told_once_with_its_leaf(caplog):
    def loss_fn(params, batch):
        return jnp.mean(batch["x"]) * jnp.sum(params["w"]) + jnp.sum(batch["y"])

    train = stabjax.make_train_step(loss_fn, optax.sgd(0.1))
    long = {"x": np.ones((8, 3), np.float32), "y": np.ones(2, np.float32)}
    short = long | {"x": np.ones((5, 3), np.float32)}
    with caplog.at_level(logging.WARNING, logger="stabjax"):
        state = train.init(PARAMS, long)
        for batch in (long, long):
            state, _ = train.step(state, batch, KEY)
        assert warnings_of(caplog) == []
        with compilations() as compiled:
            for batch in (short, long, short):
                state, _ = train.step(state, batch, KEY)
    assert compiled.count("jit(one)") == 1
    (told,) = warnings_of(caplog)
    assert "step is compiled anew" in told
    assert "x from float32[8,3] to float32[5,3]" in told
    assert "y" not in told.split("changed: ")[1].split(".")[0]


def test_a_batch_of_another_dtype_or_tree_is_told_and_another_model_is_not(caplog):
    train = stabjax.make_train_step(
        lambda p, b: sum(jnp.sum(x) for x in jax.tree.leaves((p, b))) * 1.0,
        optax.sgd(0.1),
    )
    small, large = (train.init(jnp.ones(n), {"x": np.ones(2)}) for n in (2, 3))
    step = lambda state, batch: jax.eval_shape(train.step, state, batch, KEY)
    with caplog.at_level(logging.WARNING, logger="stabjax"):
        step(small, {"x": np.ones(2, np.float32)})
        step(large, {"x": np.ones(4, np.float32)})
        assert warnings_of(caplog) == []
        step(large, {"x": np.ones(4, np.float16)})
        step(large, {"x": np.ones(4, np.float16), "y": np.ones(1, np.float32)})
        step(large, [np.ones(4, np.float16)])
    told = [text.split("changed: ")[1].split(". ")[0] for text in warnings_of(caplog)]
    assert told == [
        "x from float32[4] to float16[4]",
        "y is new",
        "0 is new, x is gone, y is gone",
    ]


def test_many_steps_of_another_number_are_told_by_its_name(caplog):
    train = stabjax.make_train_step(lambda p, b: b * jnp.sum(p), optax.sgd(0.1))
    state = train.init(jnp.ones(2), BATCH)
    with caplog.at_level(logging.WARNING, logger="stabjax"):
        for count in (4, 3):
            batches = np.ones(count, np.float32)
            jax.eval_shape(train.many_steps, state, batches, KEY)
    (told,) = warnings_of(caplog)
    assert told.startswith("many_steps is compiled anew")
    assert "from float32[4] to float32[3]" in told


def test_the_part_after_the_gradient_asks_the_same_of_its_report():
    train = stabjax.make_train_step(square, optax.sgd(0.1))
    state = train.init(PARAMS, BATCH)
    with pytest.raises(TypeError, match=r"^apply_gradients: .* a tuple of 2 as aux"):
        train.apply_gradients(state, jnp.float32(1), (1.0, 2.0), PARAMS)
