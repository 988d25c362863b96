"""One function raises from whatever a loop holds; trouble without a streak ends too."""

import flax.training.train_state
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from helpers import judge_series
from small import KEY, START, refused, regression, squared_error, trained

import stabjax
from stabjax import guards, make_train_step, raise_if_halted, transforms

# epfLLM/Megatron-LM#33 (Megatron-LLM), allenai/olmoearth_pretrain#135
GRADIENT = {"b": jnp.zeros(()), "w": jnp.full(4, jnp.nan)}
ONCE = guards.skip_nonfinite(max_consecutive=1)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_a_train_state_raises_with_step_component_and_leaf(form):
    bad = {"x": np.full((16, 4), np.nan, "f4"), "y": np.zeros(16, "f4")}
    given = [guards.skip_nonfinite(max_consecutive=3)]
    train = make_train_step(squared_error, optax.adam(1e-2), guards=given, form=form)
    state = train.init(START, bad)
    raise_if_halted(state)
    for step in range(9):
        state, _ = train.step(state, regression(1)[0] if step < 2 else bad, KEY)
        if step < 4:
            raise_if_halted(state)
    told = r"step 4: .*raw/fit.* leaf b"
    with pytest.raises(stabjax.TrainingHalted, match=told) as e:
        raise_if_halted(state)
    assert (e.value.step, e.value.component, e.value.leaf) == (4, "raw/fit", "b")


def test_a_halt_by_the_outcome_names_the_leaf_of_its_streak():
    half = {"a": jnp.ones(2, jnp.float16), "unused": jnp.zeros(2, jnp.float16)}
    given = [guards.skip_nonfinite(max_consecutive=2)]
    train = make_train_step(
        lambda p, b, k: (jnp.sum(p["a"] ** 2), {}), optax.adam(1e-2), guards=given
    )
    state = train.init(half, None)
    for _ in range(4):
        state, _ = train.step(state, None, KEY)
    with pytest.raises(stabjax.TrainingHalted, match=r"step 2: .*leaf unused"):
        raise_if_halted(state)


def holders():
    guarded = stabjax.guard(optax.adam(1e-2), ONCE)
    yield "itself", guarded, lambda state: state
    chained = optax.chain(optax.scale(1.0), guarded)
    yield "in a chain", chained, lambda state: state
    folded = transforms.adamw(1e-2, guards=[ONCE])
    yield "folded", folded, lambda state: state
    yield "accumulating", transforms.accumulate(optax.sgd(1.0), 2, ONCE), lambda s: s


@pytest.mark.parametrize(("name", "optimizer", "held"), list(holders()))
def test_the_state_of_a_guarded_optimizer_raises(name, optimizer, held):
    state = optimizer.init(START)
    raise_if_halted(held(state))
    _, state = optimizer.update(GRADIENT, state, START)
    with pytest.raises(stabjax.TrainingHalted, match="nonfinite_gradient, halt"):
        raise_if_halted(held(state), START)


def test_train_states_and_optimizers_of_flax_raise():
    guarded = stabjax.guard(optax.adam(1e-2), ONCE)
    state = flax.training.train_state.TrainState.create(
        apply_fn=None, params=START, tx=guarded
    )
    raise_if_halted(state)
    state = state.apply_gradients(grads=GRADIENT)
    with pytest.raises(stabjax.TrainingHalted, match="leaf w"):
        raise_if_halted(state, START)
    model = nnx.Linear(4, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, guarded, wrt=nnx.Param)
    raise_if_halted(optimizer)
    gradient = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), nnx.state(model))
    optimizer.update(model, gradient)
    with pytest.raises(stabjax.TrainingHalted):
        raise_if_halted(optimizer)
    assert not stabjax.was_applied(optimizer)


def test_every_second_step_bad_ends_although_no_streak_forms():
    norm = np.where(np.arange(2000) % 2, 1.0, np.nan)
    halt = judge_series(guards.skip_nonfinite(), grad_norm=norm).halt
    assert 100 < np.argmax(halt) < 400
    ladder = judge_series(guards.escalate(), grad_norm=norm)
    assert np.argmax(ladder.roll_back) > 100
    assert ladder.halt.any()


def test_two_steps_of_five_bad_go_on():
    # jax-ml/jax#35409
    norm = np.where(np.isin(np.arange(2000) % 5, (1, 3)), np.nan, 1.0)
    assert not judge_series(guards.skip_nonfinite(), grad_norm=norm).halt.any()
    assert not judge_series(guards.escalate(), grad_norm=norm).roll_back.any()
    generous = guards.skip_nonfinite(max_share=1.0)
    every_second = np.where(np.arange(2000) % 2, 1.0, np.nan)
    assert not judge_series(generous, grad_norm=every_second).halt.any()


def test_a_rollback_by_share_starts_counting_anew():
    norm = np.where(np.arange(800) % 2, 1.0, np.nan)
    given = guards.skip_nonfinite(on_exhausted="roll_back", max_consecutive=50)
    back = judge_series(given, grad_norm=norm).roll_back.nonzero()[0]
    assert len(back) >= 2
    assert back[1] - back[0] > 100


def test_refused_steps_are_those_of_the_bad_batches():
    batches = regression(6)
    batches[2]["x"][0, 0] = np.inf
    given = [guards.skip_nonfinite()]
    _, state, rows = trained(squared_error, optax.adam(1e-2), given, START, batches)
    assert refused(rows) == [2]
    raise_if_halted(state)
