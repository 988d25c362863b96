"""A run of more than 2**31 steps neither wraps around nor loses its telemetry."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import rows_of
from small import KEY, START, regression, squared_error

import stabjax
from stabjax import guards
from stabjax.core.elementwise import nonfinite_elements
from stabjax.core.packing import pack

LAST = np.iinfo(np.int32).max


@pytest.mark.parametrize("form", ["branch", "select"])
def test_the_counters_of_a_train_step_stop_at_the_largest(form):
    given = [guards.skip_nonfinite()]
    train = stabjax.make_train_step(
        squared_error, optax.adam(1e-2), guards=given, window=3, form=form
    )
    batch = regression(1)[0]
    state = train.init(START, batch)
    core = train.guard_states(state)
    full = {name: jnp.int32(LAST) for name in ("step", "applied", "refused")}
    state = state._replace(core=pack(core._replace(**full)))
    for value in (batch, {**batch, "y": np.full(16, np.nan, "f4")}):
        state, _ = train.step(state, value, KEY)
        core = train.guard_states(state)
        assert (core.step, core.applied, core.refused) == (LAST,) * 3
        assert rows_of(state)[-1]["step"] == LAST


def test_so_do_those_of_a_guarded_optimizer():
    optimizer = stabjax.guard(optax.sgd(0.1), ())
    state = optimizer.init(START)
    full = {"step": jnp.int32(LAST), "consecutive_refused": jnp.int32(LAST)}
    state = state._replace(core=state.core._replace(**full))
    gradient = {"b": jnp.zeros(()), "w": jnp.full(4, jnp.nan)}
    _, state = optimizer.update(gradient, state, START)
    assert (state.core.step, state.core.consecutive_refused) == (LAST, LAST)


def test_elements_are_counted_exactly_beyond_the_range_of_a_float():
    many = jnp.full((2**24 + 3,), jnp.nan, jnp.bfloat16)
    assert nonfinite_elements({"w": many}) == 2**24 + 3
