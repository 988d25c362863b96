"""Projected gradients against algorithm 1 of the paper, in float64."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratics import (
    KEY,
    NAMES,
    START,
    differentiate,
    exact_gradients,
    params_of,
    quadratic_loss,
    vector_of,
)

from stabjax.loss_transforms import bound_component, pcgrad
from stabjax.losses import weigh
from stabjax.train_step import make_train_step

ORDER = {i: [j for j in range(3) if j != i] for i in range(3)}
# A point where each two of the three components pull against each other.
CONFLICT = np.array([-0.3, -0.1, 0.2, 0.1, -0.4])


def project(gradients, order=ORDER):
    """Return the projected gradients, as the paper has them."""
    projected = []
    for i, gradient in enumerate(gradients):
        for j in order[i]:
            dot = gradient @ gradients[j]
            if dot < 0:
                gradient = gradient - dot / (gradients[j] @ gradients[j]) * gradients[j]
        projected.append(gradient)
    return np.stack(projected)


@functools.cache
def linear_gradient(order="named", dtype=jnp.float32):
    """Return a function from three slopes and a key to gradient and aux of pcgrad."""

    def terms(params, batch, key):
        return {n: jnp.sum(params * batch[i]) for i, n in enumerate(NAMES)}, {}

    loss_fn = pcgrad(weigh(terms, weights=dict.fromkeys(NAMES, 1.0)), order=order)
    grad_fn = jax.jit(jax.grad(loss_fn, has_aux=True))
    return lambda slopes, key=KEY: grad_fn(
        jnp.ones(slopes.shape[1], dtype), jnp.asarray(slopes, dtype), key
    )


def slopes_of(seed, size=6):
    return np.random.default_rng(seed).normal(size=(3, size)).astype(np.float32)


def test_the_gradient_of_three_components_is_that_of_the_paper():
    conflicts = 0
    for seed in range(40):
        slopes = slopes_of(seed)
        gradient, aux = linear_gradient()(slopes)
        exact = project(np.float64(slopes)).sum(axis=0)
        np.testing.assert_allclose(gradient, exact, rtol=1e-4, atol=1e-5)
        inner = np.float64(slopes) @ np.float64(slopes).T
        pairs = sum(inner[i, j] < 0 for i, j in itertools.combinations(range(3), 2))
        assert float(aux["pcgrad/conflicts"]) == pairs
        conflicts += pairs
    assert conflicts > 40


def test_the_random_order_is_one_of_the_orders_and_follows_the_key():
    slopes = slopes_of(3) * np.float32(0.1)
    slopes[:, :2] += np.float32([[1.0, 0.2], [-0.5, 0.8], [-0.5, -0.8]])
    both = [[(1, 2), (2, 1)], [(0, 2), (2, 0)], [(0, 1), (1, 0)]]
    possible = [
        project(np.float64(slopes), dict(enumerate(order))).sum(axis=0)
        for order in itertools.product(*both)
    ]
    seen = set()
    for seed in range(40):
        gradient, _ = linear_gradient("random")(slopes, jax.random.key(seed))
        errors = [np.max(np.abs(gradient - exact)) for exact in possible]
        assert min(errors) < 1e-5
        seen.add(tuple(np.round(np.float64(gradient), 4)))
    assert len(seen) == len({tuple(np.round(exact, 4)) for exact in possible}) > 1
    again = [linear_gradient("random")(slopes)[0] for _ in range(2)]
    np.testing.assert_array_equal(*again)


@given(st.integers(0, 10**6), st.lists(st.integers(-50, 50), min_size=3, max_size=3))
def test_it_is_right_whatever_the_sizes_of_the_components(seed, powers):
    slopes = slopes_of(seed) * 2.0 ** np.array(powers)[:, None]
    gradient, _ = linear_gradient()(slopes)
    projected = project(np.float64(slopes))
    # Where they are all but opposite, what is left is as uncertain as its parts.
    size = np.max(np.abs(slopes)) * 1e-4
    np.testing.assert_allclose(gradient, projected.sum(axis=0), rtol=1e-3, atol=size)


def test_a_gradient_whose_square_overflows_is_projected_all_the_same():
    slopes = np.array([[1e25, 1e25], [-1e25, 0.0], [0.0, 0.0]], np.float32)
    gradient, aux = linear_gradient()(slopes)
    exact = project(np.float64(slopes[:2]), {0: [1], 1: [0]}).sum(axis=0)
    np.testing.assert_allclose(gradient, exact, rtol=1e-5)
    assert float(aux["pcgrad/conflicts"]) == 1.0


def test_without_a_conflict_it_is_the_plain_gradient_bit_for_bit():
    inner = quadratic_loss()
    vector = START + 10.0
    dots = np.stack(list(exact_gradients(vector).values()))
    assert np.all(dots @ dots.T > 0)
    _, aux, ours = differentiate(pcgrad(inner), params_of(vector))
    _, _, plain = differentiate(inner, params_of(vector))
    assert float(aux["pcgrad/conflicts"]) == 0.0
    np.testing.assert_array_equal(vector_of(ours), vector_of(plain))


def test_a_step_of_the_train_step_takes_exactly_the_projected_gradient():
    loss_fn = pcgrad(quadratic_loss(), order="named")
    train = make_train_step(loss_fn, optax.sgd(0.1))
    state = train.init(params_of(CONFLICT), jnp.float32(1.0))
    state, _ = train.step(state, jnp.float32(1.0), KEY)
    gradients = np.stack([exact_gradients(CONFLICT)[n] for n in NAMES])
    assert np.any(gradients @ gradients.T < 0)
    wanted = CONFLICT - 0.1 * project(gradients).sum(axis=0)
    np.testing.assert_allclose(vector_of(state.params), wanted, rtol=1e-5, atol=1e-6)


def test_a_weight_put_on_a_projected_component_weights_its_projection():
    inner = pcgrad(quadratic_loss(), order="named")
    loss_fn = bound_component(inner, "flow", lambda x: 3.0 * x)
    _, _, gradient = differentiate(loss_fn, params_of(CONFLICT))
    gradients = np.stack([exact_gradients(CONFLICT)[n] for n in NAMES])
    wanted = np.array([1.0, 3.0, 1.0]) @ project(gradients)
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-4, atol=1e-4)


def test_half_precision_gradients_are_compared_in_single_precision():
    slopes = np.float32(jnp.asarray(slopes_of(1, size=4096), jnp.bfloat16))
    gradient, _ = linear_gradient(dtype=jnp.bfloat16)(slopes)
    assert gradient.dtype == jnp.bfloat16
    exact = project(np.float64(slopes)).sum(axis=0)
    # Three products and two sums in eight bits.
    size = np.max(np.abs(project(np.float64(slopes))))
    np.testing.assert_allclose(np.float64(gradient), exact, atol=5 * 2.0**-8 * size)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_component_that_is_not_finite_makes_the_gradient_not_finite(bad):
    slopes = slopes_of(0)
    slopes[1, 2] = bad
    gradient, _ = linear_gradient()(slopes)
    assert not np.all(np.isfinite(gradient))


def test_an_order_that_is_none_is_refused():
    with pytest.raises(ValueError, match="order must be 'named' or 'random'"):
        pcgrad(quadratic_loss(), order="sorted")


def test_the_batch_cannot_be_differentiated_by_mistake():
    loss_fn = pcgrad(quadratic_loss(), order="named")
    wrong = jax.grad(lambda batch: loss_fn(params_of(), batch, KEY)[0])
    with pytest.raises(TypeError, match="not a valid JAX type"):
        wrong(jnp.float32(1.0))
