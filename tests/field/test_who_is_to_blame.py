"""The one blamed is the cause: what was damaged before, and the right leaf."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import rows_of
from small import KEY, START, regression, squared_error, trained

import stabjax
from stabjax import guards, health

# Rikorose/DeepFilterNet#30, ultralytics/ultralytics#24307
WIDE = {
    "a": jnp.zeros((64, 64)),
    "b": jnp.zeros((4000,)).at[1234].set(jnp.nan),
    "w": jnp.zeros(4),
}


def with_all(params, batch, key):
    total, aux = squared_error({"w": params["w"], "b": 0.0}, batch, key)
    return total + jnp.sum(params["a"]) + jnp.sum(params["b"]), aux


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_leaf_damaged_before_the_first_step_is_named_then_and_on_each_row(
    form, caplog
):
    with caplog.at_level(logging.WARNING, logger="stabjax"):
        train, state, rows = trained(
            with_all, optax.adam(1e-2), [guards.skip_nonfinite()], WIDE, regression(3),
            form=form,
        )  # fmt: skip
    assert "not finite: b" in caplog.text
    assert {train.schema(state).leaf(row) for row in rows} == {"b"}
    assert "damaged_before" in health.names_of(rows[0]["alerts"])
    assert train.audit(state) == {"params/b": 1}


def test_a_leaf_damaged_from_outside_later_is_named_too():
    train = stabjax.make_train_step(squared_error, optax.adam(1e-2), window=4)
    batches = regression(4)
    state = train.init(START, batches[0])
    state, _ = train.step(state, batches[0], KEY)
    broken = {**state.params, "w": state.params["w"].at[2].set(jnp.nan)}
    state, _ = train.step(state._replace(params=broken), batches[1], KEY)
    row = rows_of(state)[-1]
    assert not row["accepted"]
    assert train.schema(state).leaf(row) == "w"
    assert "damaged_before" in health.names_of(row["alerts"])


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_mask_that_is_infinite_on_purpose_is_to_blame_for_nothing(form):
    def loss(params, batch, key):
        scores = jax.lax.stop_gradient(params["mask"]) + params["w"]
        fit, aux = squared_error({"w": jax.nn.softmax(scores), "b": 0.0}, batch, key)
        return fit, aux

    start = {"mask": jnp.array([0.0, 0.0, 0.0, -jnp.inf]), "w": jnp.zeros(4)}
    batches = regression(6)
    batches[3]["x"][0, 0] = np.nan
    _, _, rows = trained(
        loss, optax.adam(1e-2), guards.recommended(), start, batches, form=form
    )
    assert [row["step"] for row in rows if not row["accepted"]] == [3]
    assert "damaged_before" not in health.names_of(rows[3]["alerts"])
    assert np.isfinite([row["update_norm"] for row in rows[1:]]).all()


def test_a_bad_batch_damages_nothing_before_it():
    batches = regression(2)
    batches[1]["x"][0, 0] = np.nan
    _, _, rows = trained(squared_error, optax.adam(1e-2), [], START, batches)
    assert "damaged_before" not in health.names_of(rows[1]["alerts"])


# JuliaReinforcementLearning/ReinforcementLearning.jl#739, mlnomadpy/flaxchat#6
def test_a_guarded_optimizer_keeps_leaf_and_step_of_the_last_refusal():
    params = {"a": jnp.zeros(2), "log_sigma": jnp.zeros(2), "mu": jnp.zeros(2)}
    good = jax.tree.map(jnp.ones_like, params)
    bad = {**good, "log_sigma": jnp.array([0.0, jnp.nan])}
    optimizer = stabjax.guard(optax.adam(1e-2), guards.skip_nonfinite())
    state = optimizer.init(params)
    assert (state.first_bad_leaf, state.refused_step) == (-1, -1)
    for gradient in (good, bad, good):
        _, state = optimizer.update(gradient, state, params)
    assert (state.first_bad_leaf, state.refused_step) == (1, 1)


def test_a_guarded_optimizer_blames_what_was_damaged_before_init():
    params = {"a": jnp.zeros(2), "w": jnp.array([0.0, jnp.inf])}
    optimizer = stabjax.guard(optax.adam(1e-2), guards.skip_nonfinite())
    state = optimizer.init(params)
    gradient = {"a": jnp.full(2, jnp.nan), "w": jnp.zeros(2)}
    _, state = optimizer.update(gradient, state, params)
    assert state.first_bad_leaf == 1
    assert "damaged_before" in health.names_of(int(state.alerts))


def test_a_loss_beyond_the_range_of_float32_is_finite_in_float64():
    def steep(params, batch, key):
        del key
        loss = jnp.sum(params["w"]) * jnp.asarray(batch, jnp.float64)
        return loss * 1e10, {"raw/steep": loss * 1e10, "metric": loss * 1e10}

    with jax.enable_x64(True):
        params = {"w": jnp.full(3, 1e-40, jnp.float64)}
        train = stabjax.make_train_step(steep, optax.sgd(1e-300), window=2)
        state = train.init(params, 1e300)
        state, _ = train.step(state, jnp.float64(1e290), KEY)
        row = rows_of(state)[0]
    assert health.names_of(row["alerts"])[:1] != ("nonfinite_loss",)
    assert "nonfinite_component" not in health.names_of(row["alerts"])
    largest = float(np.finfo(np.float32).max)
    assert (row["loss"], row["raw/steep"], row["metric"]) == (largest,) * 3


def test_the_component_whose_gradient_is_nan_is_found_although_its_value_is_finite():
    def loss(params, batch, key):
        error, _ = squared_error(params, batch, key)
        noise = jax.random.uniform(key, ())
        # The square root is selected away at zero, and its gradient is not.
        size = jnp.sum(jnp.abs(params["w"] * batch["on"]))
        root = jnp.where(size > 0, jnp.sqrt(size), 0.0)
        return error + root, {"raw/error": error, "raw/root": root, "noise": noise}

    batches = [batch | {"on": np.float32(1.0)} for batch in regression(3)]
    batches[2]["on"] = np.float32(0.0)
    start = {**START, "w": np.ones(4, np.float32)}
    train, state, rows = trained(loss, optax.adam(1e-2), [], start, batches)
    assert not rows[2]["accepted"]
    assert train.schema(state).component(rows[2]) is None
    assert train.blame(state, batches[2], KEY) == {"raw/root": ["w"]}
    assert train.blame(state, batches[0], KEY, step=0) == {}


# A damaged checkpoint: no update of Adam is finite, and none may be silently zero.
@pytest.mark.parametrize(
    ("value", "check"),
    [(np.nan, "headroom"), (np.inf, "headroom"), (np.nan, "outcome")],
)
@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_damaged_optimizer_state_is_named_and_not_trained_with(form, value, check):
    plain, renewing = guards.skip_nonfinite(), guards.reset_moments(when_damaged=True)
    for listed in ([plain], [plain, renewing]):
        options = {"guards": listed, "form": form, "finite_check": check}
        train = stabjax.make_train_step(squared_error, optax.adamw(1e-2), **options)
        batches = regression(8)
        state = train.init(START, batches[0])
        state, _ = train.step(state, batches[0], KEY)
        bad = lambda x: jnp.full_like(x, value)
        adam, *rest = state.opt_state
        adam = adam._replace(nu=jax.tree.map(bad, adam.nu))
        state = state._replace(opt_state=(adam, *rest))
        before = np.array(state.params["w"])
        for batch in batches[1:]:
            state, _ = train.step(state, batch, KEY)
        rows = rows_of(state)[1:]
        assert "damaged_before" in health.names_of(rows[0]["alerts"])
        refused = [row["step"] for row in rows if not row["accepted"]]
        assert refused == ([1] if renewing in listed else list(range(1, 8)))
        moved = not np.array_equal(state.params["w"], before)
        assert moved == (renewing in listed)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_state_that_is_infinite_on_purpose_is_no_damage(form):
    optimizer = optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau())
    train = stabjax.make_train_step(
        squared_error, optimizer, guards=guards.recommended(), form=form
    )
    batches = regression(3)
    state = train.init(START, batches[0])
    assert np.isinf(optax.tree.get(state.opt_state, "best_value"))
    for batch in batches:
        state, _ = train.step(state, batch, KEY)
    assert train.guard_states(state).refused == 0
