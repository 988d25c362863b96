import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from harm.adagc import adagc
from harm.faults import COMPONENT, FAULTS, GRADIENT, LOSS, breakable, hot, rate_of
from harm.run import Run

STEPS = 500
BY_NAME = {fault.name: fault for fault in FAULTS}


def batches(seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(STEPS, 12, 3)).astype(np.float32)
    return {"x": x, "y": rng.integers(0, 10, (STEPS, 12)).astype(np.int32)}


def loss_fn(params, batch, key):
    loss = jnp.sum((batch["x"] @ params["w"]) ** 2) + jnp.sum(params["b"] ** 2)
    return loss, {"raw/fit": loss}


def a_run(**changes):
    run = {"name": "r", "kind": "k", "steps": STEPS, "init": lambda seed: PARAMS}
    run |= {"loss": loss_fn, "optimizer": lambda: optax.adam(0.1), "batches": batches}
    return Run(**(run | {"score": lambda p, m, s: 0.0} | changes))


PARAMS = {"b": jnp.ones(2), "w": jnp.arange(3.0)}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_begins_well_inside_training_and_leaves_steps_to_recover(fault):
    steps = np.flatnonzero(fault.when(STEPS))
    assert steps[0] >= STEPS // 5
    assert fault.name.startswith("NaN in 1 %") or steps[-1] < 0.95 * STEPS


@pytest.mark.parametrize("name", [fault.name for fault in FAULTS if fault.damage])
def test_damaged_batches_are_those_it_says_and_no_others(name):
    fault, before = BY_NAME[name], batches()
    after = fault.batches(a_run(), before, seed=3)
    key = "y" if "labels" in name else "x"
    changed = (after[key] != before[key]).reshape(STEPS, -1).any(axis=1)
    mask = fault.when(STEPS)
    assert not changed[~mask].any()
    assert changed[mask].mean() > 0.9
    assert fault.applies(a_run(), before, {})
    other = {"x": "y", "y": "x"}[key]
    np.testing.assert_array_equal(after[other], before[other])
    np.testing.assert_array_equal(before["x"], batches()["x"])


def test_faults_in_inputs_need_inputs_that_can_be_damaged():
    fault, whole = BY_NAME["one NaN batch"], batches()
    assert not fault.applies(a_run(inputs=None), whole, {})
    assert not fault.applies(a_run(), {**whole, "x": whole["y"]}, {})
    assert not BY_NAME["random labels, five batches"].applies(
        a_run(labels=None), whole, {}
    )


def test_a_loss_without_a_signal_is_what_it_was():
    batch = {"x": jnp.ones((4, 3))}
    loss, aux = breakable(loss_fn)(PARAMS, {"batch": batch, "signal": 0}, None)
    plain, _ = loss_fn(PARAMS, batch, None)
    assert loss == plain == aux["raw/fit"]


@pytest.mark.parametrize("signal", [LOSS, COMPONENT, GRADIENT])
def test_a_signal_breaks_one_place_alone(signal):
    batch = {"x": jnp.ones((4, 3))}

    def at(signal):
        whole = {"batch": batch, "signal": jnp.int32(signal)}
        both = jax.value_and_grad(breakable(loss_fn), has_aux=True)
        (loss, aux), gradient = both(PARAMS, whole, None)
        finite = jnp.isfinite(loss), jnp.isfinite(aux["raw/fit"])
        return [bool(x) for x in finite], gradient

    finite, gradient = at(signal)
    assert finite == [signal != LOSS, signal != COMPONENT]
    clean = jax.grad(lambda p: loss_fn(p, batch, None)[0])(PARAMS)
    np.testing.assert_array_equal(at(0)[1]["b"], clean["b"])
    np.testing.assert_array_equal(gradient["w"], clean["w"])
    if signal == GRADIENT:
        np.testing.assert_array_equal(gradient["b"], [np.inf, np.inf])
    else:
        np.testing.assert_array_equal(gradient["b"], clean["b"])


def test_the_learning_rate_is_a_hundred_times_too_high_for_five_steps():
    optimizer = optax.chain(optax.sgd(1.0), rate_of())
    state = hot(optimizer.init(PARAMS))
    sizes = []
    for _ in range(7):
        updates, state = optimizer.update(PARAMS, state)
        sizes.append(float(updates["b"][0]))
    assert sizes == [-100.0] * 5 + [-1.0] * 2


@pytest.mark.parametrize(
    ("optimizer", "poisoned"),
    [(optax.adam(0.1), "nu"), (optax.sgd(0.1, momentum=0.9), "trace")],
)
def test_poisoned_moments_are_the_second_ones_or_else_the_first(optimizer, poisoned):
    state = optimizer.init(PARAMS)
    after = BY_NAME["moments infinite"].state(state)
    for (path, leaf), old in zip(
        jax.tree_util.tree_flatten_with_path(after)[0],
        jax.tree.leaves(state),
        strict=True,
    ):
        inside = any(getattr(key, "name", None) == poisoned for key in path)
        assert bool(jnp.isinf(leaf).all()) == inside
        assert inside or bool((leaf == old).all())
        assert leaf.dtype == old.dtype


def test_zero_second_moments_need_second_moments():
    fault = BY_NAME["second moments zero"]
    assert fault.applies(a_run(), {}, optax.adam(0.1).init(PARAMS))
    assert not fault.applies(a_run(), {}, optax.sgd(0.1, momentum=0.9).init(PARAMS))


def test_adagc_clips_each_leaf_to_its_own_running_norm():
    rng = np.random.default_rng(0)
    optimizer = adagc(warmup=3)
    state = optimizer.init(PARAMS)
    typical = {"b": np.inf, "w": np.inf}
    for step in range(8):
        size = 10.0 ** rng.uniform(-2, 2)
        gradient = {k: size * rng.normal(size=v.shape) for k, v in PARAMS.items()}
        norms = {k: np.linalg.norm(g) for k, g in gradient.items()}
        both = np.sqrt(sum(n**2 for n in norms.values()))
        single = jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), gradient)
        updates, state = optimizer.update(single, state)
        for name, g in gradient.items():
            bound = 1.05 * typical[name] / norms[name]
            h = min(1.0, 1.0 / both if step < 3 else bound)
            np.testing.assert_allclose(updates[name], h * g, rtol=2e-5)
            kept = h * norms[name]
            smaller = min(typical[name], kept)
            mean = 0.98 * typical[name] + 0.02 * kept
            typical[name] = smaller if step < 3 else mean
