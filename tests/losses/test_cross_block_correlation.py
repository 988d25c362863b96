"""Correlation between blocks against float64, and where it is not defined."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import cross_block_correlation

SIZES = (2, 3, 1)
HUGE = float(np.float32(1e30))
loss = jax.jit(cross_block_correlation, static_argnames=("sizes", "eps"))
value_and_grad = jax.jit(
    jax.value_and_grad(cross_block_correlation), static_argnames=("sizes", "eps")
)
CODES = hnp.arrays(
    np.float32, (5, 6), elements=st.floats(-HUGE, HUGE, width=32, allow_subnormal=False)
)


def mixed(rows, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.normal(size=(rows, 6)) @ rng.normal(size=(6, 6))
    return codes * np.geomspace(0.1, 1e3, 6) + np.linspace(-1e3, 1e3, 6)


def oracle(codes, sizes=SIZES):
    """Average np.corrcoef over pairs of blocks in float64."""
    matrix = np.corrcoef(np.asarray(codes, np.float64).T) ** 2
    blocks = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    pairs = itertools.combinations(blocks, 2)
    return np.mean([matrix[np.ix_(one, other)].mean() for one, other in pairs])


@pytest.mark.optimized
@pytest.mark.parametrize("rows", [3, 8, 1000])
def test_the_value_is_that_of_numpy_in_float64(rows):
    codes = mixed(rows).astype(np.float32)
    ours = loss(jnp.asarray(codes), sizes=SIZES, eps=1e-30)
    np.testing.assert_allclose(ours, oracle(codes), rtol=2e-5)


@pytest.mark.optimized
def test_the_gradient_is_that_of_finite_differences_in_float64():
    codes = mixed(8) / 100
    _, gradient = value_and_grad(jnp.asarray(codes, jnp.float32), sizes=SIZES, eps=1e-8)
    exact = np.zeros_like(codes)
    for place in np.ndindex(codes.shape):
        step = np.zeros_like(codes)
        step[place] = 1e-6
        exact[place] = (oracle(codes + step) - oracle(codes - step)) / 2e-6
    np.testing.assert_allclose(gradient, exact, rtol=1e-3, atol=1e-4 * np.ptp(exact))


def test_what_happens_within_a_block_does_not_count():
    line = np.random.default_rng(0).normal(size=(200, 1))
    other = np.random.default_rng(1).normal(size=(200, 1))
    codes = jnp.asarray(np.hstack([line, 2 * line, other]), jnp.float32)
    assert float(loss(codes, sizes=(2, 1))) < 0.02
    np.testing.assert_allclose(float(loss(codes, sizes=(1, 2))), 0.5, atol=0.02)


@given(CODES)
def test_it_lies_between_zero_and_one_with_a_finite_gradient(codes):
    value, gradient = value_and_grad(jnp.asarray(codes), sizes=SIZES)
    assert 0.0 <= float(value) <= 1.0 + 1e-5
    assert bool(jnp.all(jnp.isfinite(gradient)))


@given(st.floats(-HUGE, HUGE, width=32, allow_subnormal=False))
def test_a_constant_column_is_uncorrelated_and_pulls_nowhere(level):
    codes = jnp.asarray(mixed(8), jnp.float32).at[:, 2:].set(level)
    value, gradient = value_and_grad(codes, sizes=SIZES)
    assert float(value) == 0.0
    assert np.all(np.asarray(gradient) == 0.0)


@pytest.mark.parametrize("rows", [0, 1])
def test_no_row_and_a_single_row_give_zero(rows):
    value, gradient = value_and_grad(jnp.ones((rows, 6)), sizes=SIZES)
    assert float(value) == 0.0
    assert np.all(np.asarray(gradient) == 0.0)


def test_two_rows_are_always_correlated_and_independent_columns_have_their_floor():
    codes = jnp.asarray(mixed(2), jnp.float32)
    np.testing.assert_allclose(loss(codes, sizes=SIZES), 1.0, atol=1e-3)
    draws = jax.random.normal(jax.random.key(0), (2000, 9, 2))
    values = jax.vmap(functools.partial(cross_block_correlation, sizes=(1, 1)))(draws)
    np.testing.assert_allclose(jnp.mean(values), 1 / 8, rtol=0.1)


def test_rows_that_do_not_count_may_hold_anything():
    clean = jnp.asarray(mixed(6), jnp.float32)
    dirty = jnp.concatenate([clean, jnp.full((2, 6), jnp.nan)])
    mask = jnp.arange(8) < 6
    kept = value_and_grad(clean, sizes=SIZES)
    both = value_and_grad(dirty, sizes=SIZES, mask=mask)
    np.testing.assert_allclose(both[0], kept[0], rtol=1e-6)
    np.testing.assert_allclose(both[1][:6], kept[1], rtol=1e-4, atol=1e-9)
    assert np.all(np.asarray(both[1][6:]) == 0.0)
    assert float(loss(dirty, sizes=SIZES, mask=mask & False)) == 0.0


def test_descent_decorrelates_the_blocks():
    step = jax.jit(
        lambda codes: codes - jax.grad(cross_block_correlation)(codes, sizes=(1, 1))
    )
    rows = np.random.default_rng(0).normal(size=(32, 1))
    codes = jnp.asarray(np.hstack([rows, rows + 0.1 * rows**2]), jnp.float32)
    before = float(loss(codes, sizes=(1, 1)))
    for _ in range(200):
        codes = step(codes)
    assert before > 0.9
    assert float(loss(codes, sizes=(1, 1))) < 0.1


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_codes_are_compared_in_float32(dtype):
    codes = jax.random.normal(jax.random.key(1), (8, 6), dtype)
    value, gradient = value_and_grad(codes, sizes=SIZES)
    assert (value.dtype, gradient.dtype) == (jnp.float32, dtype)
    np.testing.assert_allclose(value, oracle(codes), rtol=1e-3)


@pytest.mark.parametrize("sizes", [(6,), (3, 2), (0, 6), (3, 3, 1), (2.0, 4)])
def test_sizes_that_do_not_describe_the_columns_are_refused(sizes):
    with pytest.raises(Exception, match="sizes"):
        cross_block_correlation(jnp.ones((4, 6)), sizes=sizes)
