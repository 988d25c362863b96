"""Statistics of returns against float64, and one unit for all that meet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import (
    return_normalizer,
    standardize_returns,
)

LARGEST = float(np.float32(1e30))
VALUES = st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False)
SERIES = hnp.arrays(np.float32, (4, 6), elements=VALUES)
PLAIN = return_normalizer()
update = jax.jit(PLAIN.update)
normalize, denormalize = jax.jit(PLAIN.normalize), jax.jit(PLAIN.denormalize)


@functools.cache
def run_of(decay):
    """Return a compiled run over a series of masked batches."""
    normalizer = return_normalizer(decay=decay)

    def run(series, masks):
        step = lambda s, batch: (normalizer.update(s, *batch), None)
        return jax.lax.scan(step, normalizer.init(), (series, masks))[0]

    return jax.jit(run)


def oracle(series, masks, decay):
    """Return mean and deviation of all batches, discounted, in float64."""
    ages = len(series) - 1 - np.arange(len(series))
    weights = (np.float64(decay) ** ages)[:, None] * np.asarray(masks)
    if not weights.sum():
        return 0.0, 0.0, 0.0
    mean = np.average(np.float64(series), weights=weights)
    variance = np.average((np.float64(series) - mean) ** 2, weights=weights)
    return mean, np.sqrt(variance), weights.sum()


@pytest.mark.optimized
@given(SERIES, hnp.arrays(np.bool_, (4, 6)), st.sampled_from([1.0, 0.9, 0.0]))
def test_running_statistics_are_those_of_all_batches_in_float64(series, masks, decay):
    masks[-1, 0] = True  # else the discount of the last batch is not seen
    state = run_of(decay)(jnp.asarray(series), jnp.asarray(masks))
    kept = masks if decay else masks & (np.arange(4) == 3)[:, None]
    discounts = [m.any() for m in kept]
    series, kept = series[discounts], kept[discounts]
    mean, std, weight = oracle(series, kept, decay or 1.0)
    size = np.abs(np.where(kept, series, 0)).max()
    np.testing.assert_allclose(state.mean, mean, rtol=1e-5, atol=2e-6 * size + 1e-37)
    np.testing.assert_allclose(state.std, std, rtol=1e-5, atol=2e-6 * size + 1e-37)
    np.testing.assert_allclose(state.weight, weight, rtol=1e-6)


def test_batches_of_unequal_size_count_by_their_number():
    data = np.random.default_rng(0).normal(loc=3.0, size=103).astype(np.float32)
    normalizer = return_normalizer(decay=1.0)
    state = normalizer.init()
    for part in np.split(data, [3, 53]):
        state = jax.jit(normalizer.update)(state, jnp.asarray(part))
    np.testing.assert_allclose(state.mean, np.mean(data, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(state.std, np.std(data, dtype=np.float64), rtol=1e-6)
    assert float(state.weight) == 103.0


def test_a_large_mean_does_not_swallow_the_deviation():
    rng = np.random.default_rng(0)
    series = (1e5 + rng.normal(size=(200, 64))).astype(np.float32)
    state = run_of(0.9)(jnp.asarray(series), jnp.ones(series.shape, jnp.bool_))
    # mean(x**2) - mean(x)**2 in float32 is off by a thousand here, or negative.
    np.testing.assert_allclose(state.std, oracle(series, series > 0, 0.9)[1], rtol=1e-3)


def test_the_first_batch_sets_the_statistics_and_nothing_seen_is_the_identity():
    returns = jnp.array([1000.0, 1500.0, 2000.0])
    state = PLAIN.init()
    np.testing.assert_array_equal(normalize(state, returns), returns)
    np.testing.assert_array_equal(denormalize(state, returns), returns)
    state = update(state, returns)
    np.testing.assert_allclose(state.mean, 1500.0)
    np.testing.assert_allclose(state.std, np.std([1000, 1500, 2000]), rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_left_out_and_counted(bad):
    clean = update(PLAIN.init(), jnp.array([1.0, 5.0]))
    dirty = update(PLAIN.init(), jnp.array([1.0, bad, 5.0, bad]))
    assert int(dirty.skipped) == 2
    assert [float(x) for x in dirty[:3]] == [float(x) for x in clean[:3]]
    again = update(dirty, jnp.full(4, bad))
    assert int(again.skipped) == 6
    assert [float(x) for x in again[:3]] == [float(x) for x in clean[:3]]


def test_the_count_of_what_was_left_out_saturates():
    state = PLAIN.init()._replace(skipped=jnp.asarray(2**31 - 2, jnp.int32))
    assert int(update(state, jnp.full(4, jnp.nan)).skipped) == 2**31 - 1


def test_masked_returns_are_neither_used_nor_counted():
    returns = jnp.array([[1.0, jnp.nan], [5.0, 7.0]])
    state = update(PLAIN.init(), returns, jnp.array([[True, False], [True, False]]))
    assert (float(state.mean), float(state.std), int(state.skipped)) == (3.0, 2.0, 0)


@given(st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False), st.integers(1, 4))
def test_constant_returns_normalize_to_zero_and_come_back(level, batches):
    returns = jnp.full(5, level, jnp.float32)
    state = PLAIN.init()
    for _ in range(batches):
        state = update(state, returns)
    scores = normalize(state, returns)
    assert np.all(np.asarray(scores) == 0.0)
    np.testing.assert_array_equal(denormalize(state, scores), returns)


@functools.partial(jax.jit, static_argnums=1)
def there_and_back(returns, scale):
    normalizer = return_normalizer(scale=scale)
    state = normalizer.update(normalizer.init(), returns)
    return normalizer.denormalize(state, normalizer.normalize(state, returns))


@given(
    hnp.arrays(
        np.float32, 6, elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False)
    ),
    st.sampled_from([1.0, 10.0]),
)
def test_denormalizing_undoes_normalizing(returns, scale):
    back = there_and_back(jnp.asarray(returns), scale)
    size = np.abs(returns).max()
    np.testing.assert_allclose(back, returns, rtol=1e-5, atol=2e-6 * size + 1e-8)


def test_values_of_other_statistics_are_in_another_unit():
    # What seed 002 mixes: a prediction in one unit, a reward in the other.
    early = update(PLAIN.init(), jnp.array([10.0, 20.0]))
    late = update(early, jnp.array([1000.0, 3000.0]))
    value = normalize(early, jnp.array([15.0]))
    assert float(denormalize(early, value)[0]) == 15.0
    assert abs(float(denormalize(late, value)[0]) - 15.0) > 500.0


def test_returns_that_are_constant_but_for_rounding_stay_small():
    returns = jnp.asarray(1e6 * (1 + 1e-7 * np.arange(5)), jnp.float32)
    assert len(np.unique(returns)) > 1
    scores = normalize(update(PLAIN.init(), returns), returns)
    assert float(jnp.max(jnp.abs(scores))) < 0.5


@pytest.mark.parametrize("factor", [2.0**-20, 2.0**20])
def test_targets_do_not_depend_on_the_scale_of_the_rewards(factor):
    normalizer = return_normalizer(min_std=1e-30)
    returns = jnp.asarray(np.random.default_rng(0).normal(size=(3, 32)), jnp.float32)

    def targets(returns):
        state = normalizer.init()
        for batch in returns:
            state = normalizer.update(state, batch)
        return normalizer.normalize(state, returns)

    targets = jax.jit(targets)
    np.testing.assert_allclose(targets(factor * returns), targets(returns), rtol=1e-6)


def test_each_component_has_its_own_unit():
    normalizer = return_normalizer(components=(2,))
    returns = jnp.array([[1.0, 100.0], [3.0, jnp.nan], [5.0, 300.0]])
    state = jax.jit(normalizer.update)(normalizer.init(), returns)
    np.testing.assert_allclose(state.mean, [3.0, 200.0])
    assert state.weight.tolist() == [3.0, 2.0]
    assert state.skipped.tolist() == [0, 1]
    scores = normalizer.normalize(state, returns)
    np.testing.assert_allclose(scores[:, 0], np.array([-2, 0, 2]) / np.sqrt(8 / 3))
    assert np.isnan(scores[1, 1])


def test_the_state_keeps_its_dtypes_and_compiles_once():
    normalizer, traces = return_normalizer(components=(2,)), []

    @jax.jit
    def step(state, returns):
        traces.append(0)
        return normalizer.update(state, returns)

    state = normalizer.init()
    for seed in range(3):
        state = step(state, jax.random.normal(jax.random.key(seed), (4, 2)))
    assert len(traces) == 1
    assert [x.dtype.name for x in state] == ["float32"] * 3 + ["int32"]
    assert not any(x.weak_type for x in (*state, *normalizer.init()))


def test_it_maps_over_members_of_an_ensemble():
    returns = jax.random.normal(jax.random.key(0), (3, 8))
    empty = jax.tree.map(lambda x: jnp.stack([x] * 3), PLAIN.init())
    states = jax.jit(jax.vmap(PLAIN.update))(empty, returns)
    np.testing.assert_allclose(states.mean, jnp.mean(returns, 1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_returns_keep_their_dtype_and_do_not_overflow(dtype):
    returns = jnp.asarray([-30000.0, 30000.0, 30000.0], dtype)
    state = update(PLAIN.init(), returns)
    assert state.mean.dtype == jnp.float32
    np.testing.assert_allclose(state.mean, np.mean(np.float64(returns)), rtol=1e-6)
    back = denormalize(state, normalize(state, returns))
    assert back.dtype == dtype
    np.testing.assert_allclose(np.float64(back), np.float64(returns), rtol=1e-2)
    high = denormalize(state, jnp.full(3, 6e4, dtype))
    assert bool(jnp.all(jnp.isfinite(high)))


def test_the_statistics_carry_no_gradient():
    def loss(returns):
        state = PLAIN.update(PLAIN.init(), returns)
        return jnp.sum(normalize(state, returns) ** 2)

    returns = jnp.array([1.0, 3.0])
    gradient = jax.jit(jax.grad(loss))(returns)
    np.testing.assert_allclose(gradient, 2 * np.array([-1.0, 1.0]))


as_seed_002 = jax.jit(functools.partial(standardize_returns, scale=10.0, ddof=1))


@given(
    hnp.arrays(
        np.float32,
        (3, 5),
        elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    )
)
def test_one_batch_is_standardized_as_in_float64(returns):
    ours = as_seed_002(jnp.asarray(returns))
    wide = returns.astype(np.float64)
    std = wide.std(ddof=1)
    exact = 10 * (wide - wide.mean()) / (std + 1e-8)
    tolerance = 10 * 1e-6 * np.abs(wide).max() / (std + 1e-8)
    if len(np.unique(returns)) == 1:
        exact, tolerance = 0.0 * wide, 0.0
    np.testing.assert_allclose(ours, exact, rtol=1e-5, atol=tolerance + 1e-6)


def test_standardized_returns_are_targets_without_a_gradient():
    gradient = jax.grad(lambda r: jnp.sum(standardize_returns(r) ** 3))(jnp.arange(3.0))
    assert np.all(np.asarray(gradient) == 0.0)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="return_normalizer: decay must be in"):
        return_normalizer(decay=1.5)
    with pytest.raises(ValueError, match="return_normalizer: min_std must be in"):
        return_normalizer(min_std=0.0)
    with pytest.raises(ValueError, match="standardize_returns: scale must be in"):
        standardize_returns(jnp.ones(2), scale=0.0)
    normalizer = return_normalizer(components=(2,))
    with pytest.raises(ValueError, match="must end in the components"):
        normalizer.update(normalizer.init(), jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="mask must have leading axes"):
        PLAIN.update(PLAIN.init(), jnp.ones(3), jnp.ones(2, jnp.bool_))
