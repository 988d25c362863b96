"""The penalty on saturation and the shares that measure it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax import losses
from stabjax.losses import soft_clamp

pytestmark = pytest.mark.optimized  # where a tanh has saturated is up to the compiler

saturation = jax.jit(losses.saturation, static_argnums=1, static_argnames="activation")
saturation_penalty = jax.jit(losses.saturation_penalty, static_argnames="limit")
LEARN = jax.jit(jax.value_and_grad(losses.saturation_penalty), static_argnames="limit")
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
SIZES = st.floats(-(2.0**99), 2.0**99, width=32)
VALUES = hnp.arrays(np.float32, 8, elements=SIZES)


def scaled_tanh(x):
    return 100.0 * jnp.tanh(x / 100.0)


SHARES = jax.jit(lambda x: saturation(x, 100.0, activation=scaled_tanh))
SCALED_TANH = jax.jit(lambda x: (scaled_tanh(x), jax.vmap(jax.grad(scaled_tanh))(x)))


@given(VALUES, st.sampled_from([0.5, 5.0, 1e3]))
def test_the_penalty_and_its_gradient_match_float64(x, limit):
    exact = np.abs(np.float64(x)) - limit
    value, gradient = LEARN(x, limit=limit)
    np.testing.assert_allclose(value, np.maximum(exact, 0).mean(), rtol=2e-6)
    np.testing.assert_array_equal(gradient, np.where(exact > 0, np.sign(x) / 8, 0))


@jax.jit
@jax.grad
def BOUNDED(x):
    return losses.saturation_penalty(6 * jnp.tanh(x / 6), limit=5.0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("x", [6.0, 300.0, 6e4])
def test_the_gradient_is_alive_where_that_of_the_bounded_output_is_dead(dtype, x):
    assert float(LEARN(np.asarray([x], dtype), limit=5.0)[1][0]) == 1.0
    assert float(BOUNDED(np.asarray([6e4], dtype))[0]) == 0.0


def test_entries_that_do_not_count_are_inert_and_none_is_zero():
    x, mask = jnp.array([9.0, jnp.nan]), jnp.array([True, False])
    value, gradient = LEARN(x, mask=mask, limit=5.0)
    assert float(value) == 4.0
    assert gradient.tolist() == [1.0, 0.0]
    none = np.zeros(2, np.bool_)
    assert float(saturation_penalty(x, mask=none, limit=5.0)) == 0.0
    shares = saturation(x, 5.0, mask=mask)
    assert [float(s) for s in shares] == [1.0, 1.0]
    assert [float(s) for s in saturation(x, 5.0, mask=none)] == [0.0, 0.0]


def test_a_clip_is_dead_beyond_its_bound_and_only_at_it_on_its_bound():
    x = jnp.array([0.0, 5.0, -5.0, 7.0])
    assert [float(s) for s in saturation(x, 5.0)] == [0.75, 0.25]


@given(hnp.arrays(np.float32, 16, elements=st.floats(-1e3, 1e3, width=32)))
def test_the_shares_are_those_of_the_activation_itself(x):
    at_bound, dead = SHARES(x)
    output, slope = SCALED_TANH(x)
    np.testing.assert_allclose(at_bound, np.mean(np.abs(output) >= 100.0))
    np.testing.assert_allclose(dead, np.mean(np.asarray(slope) == 0.0))


def test_a_scaled_tanh_dies_at_nine_times_its_scale_and_the_soft_clamp_lives():
    x = jnp.array([50.0, 300.0, 950.0, -4000.0])
    textbook = saturation(x, 100.0, activation=scaled_tanh)
    ours = saturation(x, 100.0, activation=functools.partial(soft_clamp, scale=100.0))
    assert float(textbook.dead) == 0.5
    assert float(ours.dead) == 0.0
    assert float(ours.at_bound) == 0.5


def test_a_bfloat16_tanh_saturates_earlier():
    x = jnp.array([3.5])
    exact = saturation(x, 1.0, activation=jnp.tanh)
    half = saturation(x.astype(jnp.bfloat16), 1.0, activation=jnp.tanh)
    assert (float(exact.at_bound), float(half.at_bound)) == (0.0, 1.0)
    assert half.at_bound.dtype == jnp.float32


def test_nan_shows_in_both_shares_and_the_metric_has_no_gradient():
    shares = saturation(jnp.array([jnp.nan, 1.0]), 5.0)
    assert all(np.isnan(s) for s in shares)
    gradient = jax.grad(lambda v: sum(saturation(v, 5.0, activation=jnp.tanh)))
    assert jax.jit(gradient)(jnp.array([1.0, 9.0])).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_bound_that_is_no_size_is_refused(value):
    with pytest.raises(ValueError, match="saturation_penalty: limit must be in"):
        saturation_penalty(jnp.ones(2), limit=value)
    with pytest.raises(ValueError, match="saturation: bound must be in"):
        saturation(jnp.ones(2), value)
