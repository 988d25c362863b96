"""Two-hot weights, their decoding, and the loss on them, against float64."""

import functools

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import (
    two_hot,
    two_hot_bins,
    two_hot_cross_entropy,
    two_hot_decode,
)

# The grid is data while tracing, so it is left out of the arguments.
BINS = two_hot_bins()
EDGE = float(BINS[-1])
ENCODE = jax.jit(lambda x: two_hot(x, BINS))
DECODE = jax.jit(lambda p: two_hot_decode(p, BINS))
SCALARS = hnp.arrays(np.float32, 4, elements=st.floats(-(2.0**30), 2.0**30, width=32))
SMALL = np.array([-3.0, -1.0, 0.0, 0.5, 4.0], np.float32)
LOGITS = hnp.arrays(np.float32, (4, 5), elements=st.floats(-60, 60, width=32))
TARGETS = hnp.arrays(np.float32, 4, elements=st.floats(-8, 8, width=32))


def encode(x, bins):
    """Return two-hot weights in float64 by a search for the interval."""
    bins = np.asarray(bins, np.float64)
    x = np.clip(np.asarray(x, np.float64), bins[0], bins[-1])
    place = np.clip(np.searchsorted(bins, x, side="right") - 1, 0, len(bins) - 2)
    share = (x - bins[place]) / (bins[place + 1] - bins[place])
    weights = np.zeros((*x.shape, len(bins)))
    np.put_along_axis(weights, place[..., None], (1 - share)[..., None], -1)
    np.put_along_axis(weights, place[..., None] + 1, share[..., None], -1)
    return weights


@pytest.mark.optimized
@given(SCALARS)
def test_the_weights_match_a_search_in_float64(x):
    weights = ENCODE(x)
    np.testing.assert_allclose(weights, encode(x, BINS), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(np.sum(weights, -1), 1.0, rtol=1e-6)
    assert np.all(np.asarray(weights) >= 0.0)
    assert np.all(np.sum(np.asarray(weights) > 0, -1) <= 2)


@given(SCALARS)
def test_decoding_undoes_encoding_within_the_grid(x):
    back = np.asarray(DECODE(ENCODE(x)), np.float64)
    inside = np.clip(np.float64(x), -EDGE, EDGE)
    # Both bins are at most 17 % larger than x, or are those beside zero.
    np.testing.assert_allclose(back, inside, rtol=2e-6, atol=2e-7)


@jax.jit
def ENCODE_SMALL(x):
    """Return the weights in the small grid, and their slopes along a ramp."""
    weights, pull = jax.vjp(lambda v: two_hot(v, SMALL), x)
    ramp = jnp.broadcast_to(jnp.arange(5, dtype=jnp.float32), weights.shape)
    return weights, pull(ramp)[0]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_every_dtype_gives_float32_weights(dtype):
    weights = ENCODE_SMALL(np.asarray([-2.5, 0.1, 3.0], dtype))[0]
    x = np.asarray([-2.5, 0.1, 3.0], dtype)
    assert weights.dtype == jnp.float32
    np.testing.assert_allclose(weights, encode(x, SMALL), rtol=1e-6, atol=1e-7)
    decode = functools.partial(two_hot_decode, bins=SMALL)
    assert jax.eval_shape(decode, weights.astype(dtype)).dtype == jnp.float32


def test_a_bin_itself_takes_all_the_weight():
    np.testing.assert_array_equal(ENCODE_SMALL(SMALL)[0], np.eye(5))


def test_beyond_the_grid_and_at_infinity_the_last_bin_counts():
    weights, slope = ENCODE_SMALL(np.float32([-np.inf, -9.0, 9.0, np.inf]))
    expected = np.eye(5)[[0, 0, 4, 4]]
    np.testing.assert_array_equal(weights, expected)
    assert not np.any(slope)


def test_the_slope_is_one_over_the_width_of_the_interval():
    slope = ENCODE_SMALL(np.float32([-2.0, 0.0, 0.25, 2.0]))[1]
    np.testing.assert_allclose(slope, [0.5, 2.0, 2.0, 1 / 3.5])


def test_nan_fills_its_row_and_no_other():
    weights = ENCODE(jnp.array([jnp.nan, 1.0]))
    assert np.all(np.isnan(weights[0]))
    assert np.all(np.isfinite(weights[1]))


def test_the_grid_is_antisymmetric_with_a_bin_at_zero():
    np.testing.assert_array_equal(BINS, -BINS[::-1])
    assert BINS[127] == 0.0
    exact = np.expm1(np.linspace(0, 20, 128))
    np.testing.assert_allclose(BINS[127:], exact, rtol=1e-6)
    assert two_hot_bins(2, limit=1.0).size == 2


def test_equal_probabilities_decode_to_exactly_zero():
    for dtype in (jnp.float32, jnp.bfloat16):
        p = np.full((2, 255), 1 / 255, dtype)
        assert DECODE(p).tolist() == [0.0, 0.0]
    assert float(np.sum(np.full(255, 1 / 255, np.float32) * BINS)) != 0.0


@jax.jit
def learn(logits, target):
    return jax.value_and_grad(two_hot_cross_entropy)(logits, target, SMALL)


@pytest.mark.optimized
@given(LOGITS, TARGETS)
def test_the_loss_and_its_gradient_match_float64(logits, target):
    value, gradient = learn(logits, target)
    x, weights = np.float64(logits), encode(target, SMALL)
    relative = x - x.max(1, keepdims=True)
    log_p = relative - np.log(np.exp(relative).sum(1, keepdims=True))
    np.testing.assert_allclose(value, -(weights * log_p).sum(1).mean(), rtol=2e-5)
    slope = (np.exp(log_p) - weights) / 4
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


def test_the_gradient_does_not_grow_with_the_target():
    loss = jax.jit(jax.grad(lambda x, t: two_hot_cross_entropy(x, t, BINS)))
    for target in (0.0, 1e3, 1e8, 1e30):
        gradient = loss(np.zeros((1, 255), np.float32), np.float32([target]))
        assert np.linalg.norm(gradient) < 1.01


def test_the_target_carries_no_gradient_and_masked_positions_are_inert():
    logits = np.stack([np.arange(5, dtype=np.float32), np.full(5, np.nan, np.float32)])
    target, mask = jnp.array([0.25, jnp.nan]), jnp.array([True, False])
    loss = functools.partial(two_hot_cross_entropy, bins=SMALL, mask=mask)
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    value, (slope, by_target) = both(logits, target)
    kept = learn(logits[:1], target[:1])
    np.testing.assert_allclose(value, kept[0], rtol=1e-6)
    np.testing.assert_allclose(slope[:1], kept[1], rtol=1e-6)
    assert not np.any(slope[1])
    assert by_target.tolist() == [0.0, 0.0]


def test_an_impossible_bin_without_weight_has_no_part():
    logits = jnp.array([[0.0, 0.0, 0.0, 0.0, -jnp.inf]])
    value, gradient = learn(logits, jnp.array([-1.0]))
    np.testing.assert_allclose(value, np.log(4), rtol=1e-6)
    assert np.all(np.isfinite(gradient))


def test_nan_in_the_logits_or_the_target_is_loud():
    logits, target = np.zeros((1, 5), np.float32), np.float32([1.0])
    broken = np.where(np.arange(5) == 3, np.float32(np.nan), logits)
    assert np.isnan(learn(broken, target)[0])
    assert np.isnan(learn(logits, target * np.float32(np.nan))[0])


@pytest.mark.parametrize("bins", [[1.0], [0.0, 0.0], [1.0, 0.0], [0.0, np.inf]])
def test_bins_that_do_not_increase_are_refused(bins):
    with pytest.raises(ValueError, match="two_hot: bins must be two or more"):
        two_hot(jnp.ones(2), jnp.asarray(bins))


def test_shapes_that_would_broadcast_are_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(AssertionError, match="shape"):
        two_hot_cross_entropy(jnp.zeros((4, 5)), jnp.zeros((4, 1)), SMALL)
    with pytest.raises(AssertionError, match="dimension"):
        two_hot_decode(jnp.zeros((4, 1)), SMALL)


@pytest.mark.parametrize("options", [{"count": 1}, {"limit": 0.0}, {"limit": 90.0}])
def test_a_grid_out_of_range_is_refused(options):
    with pytest.raises(ValueError, match=f"two_hot_bins: {next(iter(options))} must"):
        two_hot_bins(**options)
