"""The predictions of a value head survive every change of its unit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stabjax.losses import pop_art

FEATURES, HEADS = 16, 3


@functools.cache
def built(scale=1.0):
    head = pop_art(HEADS, scale=scale)
    return head, jax.jit(head.update)


def layer(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(FEATURES, HEADS)) / 4
    return jnp.asarray(kernel, dtype), jnp.asarray(rng.normal(size=HEADS), dtype)


def predictions(state, kernel, bias, x, scale):
    """Return what the head predicts, in float64."""
    kernel, bias, mean, std = (
        np.asarray(a, np.float64) for a in (kernel, bias, state.mean, state.std)
    )
    std = np.maximum(std, np.maximum(1e-2, 1e-6 * np.abs(mean)))
    std = np.where(np.asarray(state.weight) > 0, std, 1.0)
    return mean + std * (x @ kernel + bias) / scale


@given(
    st.lists(st.floats(-6.0, 6.0), min_size=1, max_size=4),
    st.floats(-1e4, 1e4),
    st.sampled_from([1.0, 10.0]),
)
def test_predictions_are_preserved_up_to_rounding(decades, level, scale):
    (head, update), rng = built(scale), np.random.default_rng(0)
    x = rng.normal(size=(32, FEATURES))
    state, (kernel, bias) = head.init(), layer()
    for decade in decades:
        before = predictions(state, kernel, bias, x, scale)
        returns = level + 10.0**decade * rng.normal(size=(8, HEADS))
        old = state
        state, kernel, bias = update(
            state, jnp.asarray(returns, jnp.float32), kernel, bias
        )
        after = predictions(state, kernel, bias, x, scale)
        # A few roundings of each of the numbers that add up to a prediction.
        sizes = np.abs([old.mean, state.mean, old.std, state.std]).max(0)
        allowed = 4e-7 * (np.abs(before).max(0) + sizes + 1.0)
        assert np.all(np.abs(after - before).max(0) <= allowed)


def test_a_thousand_updates_do_not_add_up_to_a_drift():
    (head, _), rng = built(), np.random.default_rng(0)
    x = rng.normal(size=(32, FEATURES))
    state, (kernel, bias) = head.init(), layer()
    before = predictions(state, kernel, bias, x, 1.0)
    batches = 100.0 * (1 + rng.random((1000, 1, 1))) * rng.normal(size=(1000, 8, HEADS))

    def step(carry, returns):
        return head.update(carry[0], returns, *carry[1:]), None

    run = jax.jit(lambda carry, series: jax.lax.scan(step, carry, series)[0])
    state, kernel, bias = run((state, kernel, bias), jnp.asarray(batches, jnp.float32))
    after = predictions(state, kernel, bias, x, 1.0)
    assert np.abs(after - before).max() <= 1e-3 * float(jnp.min(state.std))


def test_it_is_the_layer_of_the_paper():
    head, update = built()
    kernel, bias = layer()
    first = jnp.asarray(np.random.default_rng(0).normal(size=(8, HEADS)), jnp.float32)
    one, kernel, bias = update(head.init(), first, kernel, bias)
    two, moved, shifted = update(one, 50.0 + 20.0 * first, kernel, bias)
    ratio = np.float64(one.std) / np.float64(two.std)
    np.testing.assert_allclose(moved, np.float64(kernel) * ratio, rtol=1e-6)
    exact = np.float64(bias) * ratio + (one.mean - two.mean) / np.float64(two.std)
    np.testing.assert_allclose(shifted, exact, rtol=1e-5)


def test_targets_and_predictions_share_the_unit():
    head, update = built()
    returns = jnp.asarray(np.random.default_rng(0).normal(size=(8, HEADS)), jnp.float32)
    state, _, _ = update(head.init(), 100.0 + returns, *layer())
    targets = head.normalize(state, 100.0 + returns)
    np.testing.assert_allclose(jnp.std(targets, axis=0), 1.0, rtol=1e-4)
    back = head.denormalize(state, targets)
    np.testing.assert_allclose(back, 100.0 + returns, rtol=1e-6)


@pytest.mark.parametrize("level", [0.0, 7.0, 1e30])
def test_constant_returns_leave_the_layer_finite(level):
    head, update = built()
    state, (kernel, bias) = head.init(), layer()
    for _ in range(3):
        state, kernel, bias = update(state, jnp.full((8, HEADS), level), kernel, bias)
    assert bool(jnp.all(jnp.isfinite(kernel)) & jnp.all(jnp.isfinite(bias)))


def test_a_batch_of_nan_changes_nothing():
    head, update = built()
    kernel, bias = layer()
    state, kernel, bias = update(head.init(), jnp.ones((8, HEADS)), kernel, bias)
    same, kept, held = update(state, jnp.full((8, HEADS), jnp.nan), kernel, bias)
    np.testing.assert_array_equal(kept, kernel)
    np.testing.assert_array_equal(held, bias)
    assert same.skipped.tolist() == [8] * HEADS


def test_a_half_precision_layer_keeps_its_dtype():
    head, update = built()
    returns = 1e6 * jnp.arange(24.0).reshape(8, HEADS)
    _, kernel, bias = update(head.init(), returns, *layer(dtype=jnp.bfloat16))
    assert (kernel.dtype, bias.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_it_maps_over_members_of_an_ensemble():
    head, update = built()
    kernel, bias = layer()
    batches = jax.random.normal(jax.random.key(0), (2, 8, HEADS))
    mapped = jax.vmap(head.update, in_axes=(None, 0, None, None))
    _, kernels, _ = jax.jit(mapped)(head.init(), batches, kernel, bias)
    for one, batch in zip(kernels, batches, strict=True):
        exact = update(head.init(), batch, kernel, bias)[1]
        np.testing.assert_allclose(one, exact, rtol=1e-5)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="pop_art: outputs must be in"):
        pop_art(0)
    head, _ = built()
    kernel, bias = layer()
    with pytest.raises(ValueError, match="kernel and bias must have 3 columns"):
        head.update(head.init(), jnp.ones((2, HEADS)), kernel.T, bias)
