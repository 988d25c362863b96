"""The hinge on the deviation of features, above all where they have collapsed."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import variance_hinge

DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
ROWS = hnp.arrays(np.float32, (6, 3), elements=st.floats(-3.0, 3.0, width=32))


LEARN = jax.jit(jax.value_and_grad(variance_hinge), static_argnames="target")


def oracle(x, target=1.0):
    """Return loss and gradient in float64; deviations of zero are left to the test."""
    x = np.asarray(x, np.float64)
    centered = x - x.mean(0)
    std = np.sqrt((centered**2).sum(0) / (len(x) - 1))
    slope = -centered / ((len(x) - 1) * np.where(std == 0, np.inf, std))
    short = np.maximum(target - std, 0)
    return short.mean(), np.where(short > 0, slope, 0.0) / short.size


@pytest.mark.optimized
@given(ROWS)
def test_value_and_gradient_match_float64(x):
    std = np.float64(x).std(0, ddof=1)
    # Away from the kink, and from deviations that are rounding of the mean.
    if np.any(np.abs(std - 1.0) < 1e-3) or np.any((std > 0) & (std < 1e-5)):
        return
    value, gradient = LEARN(jnp.asarray(x))
    loss, slope = oracle(x)
    np.testing.assert_allclose(value, loss, rtol=1e-5, atol=1e-6)
    alive = std > 0
    np.testing.assert_allclose(
        np.asarray(gradient)[:, alive], slope[:, alive], rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_gives_a_float32_loss(dtype):
    x = jnp.asarray(np.random.default_rng(0).normal(0, 0.3, (32, 4)), dtype)
    value = jax.jit(variance_hinge)(x)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, oracle(x)[0], rtol=1e-5)


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-10, 1e-30])
def test_the_gradient_keeps_its_length_on_the_way_to_collapse(spread):
    x = spread * jnp.array([[-1.0], [0.0], [0.5], [0.7]])
    gradient = LEARN(x)[1]
    np.testing.assert_allclose(np.linalg.norm(gradient), 1 / np.sqrt(3), rtol=1e-5)
    assert float(jnp.sum(gradient * x)) < 0.0


@pytest.mark.parametrize("level", [0.0, 0.1, -7.0, 1e30])
@pytest.mark.parametrize("dtype", DTYPES)
def test_at_exact_collapse_the_gradient_pushes_the_rows_apart(level, dtype):
    level = min(level, 6e4) if dtype == jnp.float16 else level
    x = jnp.full((5, 2), level, dtype)
    value, gradient = LEARN(x)
    assert float(value) == 1.0
    gradient = np.asarray(gradient, np.float64)
    np.testing.assert_allclose(np.linalg.norm(gradient, axis=0), 0.25, rtol=1e-2)
    np.testing.assert_allclose(gradient.sum(0), 0.0, atol=1e-3)


def test_descent_leaves_exact_collapse():
    x = jnp.full((4, 3), 2.0)
    for _ in range(60):
        x = x - 0.5 * LEARN(x)[1]
    assert float(LEARN(x)[0]) < 0.05


def test_the_usual_form_has_nan_there_or_nothing():
    x = jnp.full((4, 1), 2.0)
    naive = lambda v: jnp.mean(jax.nn.relu(1.0 - jnp.std(v, axis=0, ddof=1)))
    assert np.all(np.isnan(jax.grad(naive)(x)))
    softened = lambda v: jnp.mean(
        jax.nn.relu(1.0 - jnp.sqrt(jnp.var(v, axis=0, ddof=1) + 1e-4))
    )
    assert not np.any(jax.grad(softened)(x))


def test_rows_that_do_not_count_are_inert():
    x = jnp.array([[0.1, 2.0], [jnp.nan, jnp.inf], [0.3, 2.0]])
    mask = jnp.array([True, False, True])
    both = LEARN(x, mask=mask)
    kept = LEARN(x[::2])
    np.testing.assert_array_equal(both[0], kept[0])
    np.testing.assert_allclose(both[1], np.insert(kept[1], 1, 0.0, axis=0), rtol=1e-6)


def test_one_row_costs_the_target_and_none_costs_nothing():
    value, gradient = LEARN(jnp.ones((1, 3)), target=2.0)
    assert float(value) == 2.0
    assert not np.any(gradient)
    x, mask = jnp.full((3, 2), jnp.nan), jnp.zeros(3, jnp.bool_)
    value, gradient = LEARN(x, mask=mask)
    assert float(value) == 0.0
    assert not np.any(gradient)


def test_features_may_have_any_shape_and_enough_spread_is_free():
    x = jnp.asarray(np.random.default_rng(1).normal(0, 9, (8, 2, 3)), jnp.float32)
    value, gradient = LEARN(x)
    assert float(value) == 0.0
    assert not np.any(gradient)
    single = jax.jit(variance_hinge)(x[:, 0, 0] * 0.01)
    flat = np.asarray(x[:, 0, 0], np.float64) * 0.01
    np.testing.assert_allclose(single, 1 - flat.std(ddof=1), rtol=1e-5)


def test_one_collapsed_feature_of_a_batch_is_found_under_vmap():
    x = jnp.stack([jnp.full((4, 1), 3.0), jnp.linspace(-9, 9, 4)[:, None]])
    assert jax.jit(jax.vmap(variance_hinge))(x).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("target", [0.0, -1.0, np.nan, np.inf])
def test_a_target_that_is_no_size_is_refused(target):
    with pytest.raises(ValueError, match="variance_hinge: target must be in"):
        variance_hinge(jnp.ones((2, 2)), target=target)


def test_a_mask_of_another_length_is_refused(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    with pytest.raises(ValueError, match="variance_hinge: mask must have leading"):
        variance_hinge(jnp.ones((4, 2)), mask=jnp.ones(1, jnp.bool_))
