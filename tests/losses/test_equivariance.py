"""Equivariance: measured on outputs, over the symmetries of a grid, and masked."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import (
    dihedral,
    dihedral_inverse,
    equivariance_loss,
)

ELEMENTS = range(8)
DISTANCES = ("squared", "cross_entropy")
LIMIT = float(np.float32(1e18))
PAIRS = hnp.arrays(
    np.float32,
    (2, 4, 3),
    elements=st.floats(-LIMIT, LIMIT, width=32, allow_subnormal=False),
)
turn = jax.jit(dihedral, static_argnums=1, static_argnames="axes")
compare = jax.jit(equivariance_loss, static_argnames="distance")
value_and_grad = jax.jit(
    jax.value_and_grad(equivariance_loss, argnums=(0, 1)), static_argnames="distance"
)


def pair(shape=(2, 3, 4), seed=0):
    rng = np.random.default_rng(seed)
    return [np.float32(3 * rng.normal(size=shape)) for _ in range(2)]


def softmax(logits):
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def oracle(outputs, expected, distance):
    outputs, expected = (np.asarray(x, np.float64) for x in (outputs, expected))
    if distance == "squared":
        return np.mean((outputs - expected) ** 2)
    q, p = softmax(outputs), softmax(expected)
    return np.mean(np.sum(p * (np.log(p) - np.log(q)), -1))


@pytest.mark.optimized
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_value_is_that_of_float64(distance):
    outputs, expected = pair()
    value, _ = value_and_grad(outputs, expected, distance=distance)
    exact = oracle(outputs, expected, distance)
    np.testing.assert_allclose(value, exact, rtol=3e-6)


def test_the_squared_gradient_pulls_both_sides_and_that_of_logits_only_the_output():
    outputs, expected = pair()
    gap = (np.float64(outputs) - np.float64(expected)) * 2 / outputs.size
    _, squared = value_and_grad(outputs, expected, distance="squared")
    np.testing.assert_allclose(squared[0], gap, rtol=1e-5)
    np.testing.assert_allclose(squared[1], -gap, rtol=1e-5)
    _, crossed = value_and_grad(outputs, expected, distance="cross_entropy")
    slope = (softmax(np.float64(outputs)) - softmax(np.float64(expected))) / 6
    np.testing.assert_allclose(crossed[0], slope, rtol=1e-5, atol=1e-7)
    assert np.all(np.asarray(crossed[1]) == 0.0)


@given(PAIRS, st.sampled_from(DISTANCES))
def test_values_and_gradients_are_finite_over_the_stated_range(pairs, distance):
    outputs, expected = pairs
    value, gradients = value_and_grad(outputs, expected, distance=distance)
    # The divergence of two equal distributions is zero but for its rounding.
    assert -1e-6 <= float(value) < np.inf
    assert all(bool(jnp.all(jnp.isfinite(g))) for g in gradients)


@pytest.mark.parametrize("element", ELEMENTS)
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 5)])
def test_each_symmetry_is_undone_by_its_inverse(element, shape):
    grid = np.arange(np.prod(shape)).reshape(shape)
    turned = turn(grid, element)
    back = turn(turned, dihedral_inverse(element))
    np.testing.assert_array_equal(back, grid)
    exact = np.rot90(grid[..., ::-1] if element >= 4 else grid, element % 4, (-2, -1))
    np.testing.assert_array_equal(turned, exact)


def test_the_eight_symmetries_are_different_and_closed():
    grid = np.arange(9).reshape(3, 3)
    group = {np.asarray(turn(grid, e)).tobytes() for e in ELEMENTS}
    assert len(group) == 8
    for one in ELEMENTS:
        for other in ELEMENTS:
            joined = turn(turn(grid, one), other)
            assert np.asarray(joined).tobytes() in group


def test_other_axes_can_hold_the_grid():
    images = np.arange(2 * 3 * 3 * 4).reshape(2, 3, 3, 4)
    turned = turn(images, 1, axes=(1, 2))
    np.testing.assert_array_equal(turned, np.rot90(images, 1, (1, 2)))


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_symmetric_function_costs_nothing_and_a_lopsided_one_does(element):
    grid = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    shifts = [(1, 0), (-1, 0), (1, 1), (-1, 1)]
    blur = lambda x: sum(np.roll(x, by, axis) for by, axis in shifts)
    shift = lambda x: np.roll(x, 1, 0)

    def loss(function):
        turned = function(np.asarray(turn(grid, element)))
        return float(compare(turned, turn(function(grid), element)))

    assert loss(blur) < 1e-12
    # Mirroring left and right commutes with a shift from top to bottom.
    assert (loss(shift) > 0.1) == (element not in (0, 4))


def test_pooled_features_are_equal_whatever_the_function():
    # Rotating feature maps and pooling them: the loss of seed 004 was always zero.
    features = np.random.default_rng(0).normal(size=(6, 6, 8)).astype(np.float32)
    pool = lambda x: np.mean(x, axis=(0, 1))
    turned = np.asarray(turn(features, 1, axes=(0, 1)))
    assert float(compare(pool(turned), pool(features))) < 1e-12
    assert float(compare(turned, features)) > 0.5


@pytest.mark.parametrize("distance", DISTANCES)
def test_entries_that_do_not_count_are_inert(distance):
    outputs, expected = pair((4, 3))
    rows = np.array([True, False, True, True])
    mask = rows if distance == "cross_entropy" else np.tile(rows[:, None], (1, 3))
    dirty = [
        np.where(rows[:, None], x, np.float32(np.nan)) for x in (outputs, expected)
    ]
    value, gradients = value_and_grad(*dirty, mask=mask, distance=distance)
    kept = [x[np.array([0, 2, 3])] for x in (outputs, expected)]
    np.testing.assert_allclose(value, oracle(*kept, distance), rtol=3e-6)
    assert all(np.all(np.asarray(g[1]) == 0.0) for g in gradients)
    none = compare(*dirty, mask=mask & False, distance=distance)
    assert float(none) == 0.0


def test_classes_that_cannot_be_are_left_out():
    outputs, expected = pair((4, 3))
    first = np.arange(3) == 0
    ruled_out = [np.where(first, -np.float32(np.inf), x) for x in (outputs, expected)]
    value, gradients = value_and_grad(*ruled_out, distance="cross_entropy")
    exact = oracle(outputs[:, 1:], expected[:, 1:], "cross_entropy")
    np.testing.assert_allclose(value, exact, rtol=3e-6)
    assert bool(jnp.all(jnp.isfinite(gradients[0])))


def test_each_leaf_of_a_tree_counts_the_same():
    outputs = {"grid": np.zeros((4, 4), np.float32), "score": np.float32(0.0)}
    expected = {"grid": np.ones((4, 4), np.float32), "score": np.float32(3.0)}
    assert float(compare(outputs, expected)) == 5.0
    mask = {"grid": np.ones((4, 4), np.bool_), "score": np.False_}
    assert float(compare(outputs, expected, mask=mask)) == 0.5


def test_it_maps_over_the_group():
    grid = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    turned = np.stack([turn(grid, element) for element in ELEMENTS])
    losses = jax.jit(jax.vmap(equivariance_loss, in_axes=(0, None)))(turned, grid)
    looped = [compare(one, grid) for one in turned]
    np.testing.assert_allclose(losses, looped, rtol=1e-6)


@pytest.mark.parametrize("distance", DISTANCES)
def test_half_precision_is_compared_in_float32(distance):
    outputs, expected = (x.astype(jnp.bfloat16) for x in pair())
    value, gradients = value_and_grad(outputs, expected, distance=distance)
    assert (value.dtype, gradients[0].dtype) == (jnp.float32, jnp.bfloat16)
    np.testing.assert_allclose(value, oracle(outputs, expected, distance), rtol=3e-6)


def test_wrong_options_are_refused():
    one = jnp.ones((2, 3))
    with pytest.raises(AssertionError):
        equivariance_loss(one, jnp.ones((2, 1)))
    with pytest.raises(AssertionError):
        equivariance_loss({"a": one}, {"b": one})
    with pytest.raises(AssertionError):
        equivariance_loss(one, one, mask=jnp.ones(2, jnp.bool_))
    with pytest.raises(ValueError, match="outputs must hold an array"):
        equivariance_loss({}, {})
    with pytest.raises(Exception, match="distance"):
        equivariance_loss(one, one, distance="absolute")
    for function in (functools.partial(dihedral, one), dihedral_inverse):
        with pytest.raises(ValueError, match=r"element must be in \[0, 7\], got 8"):
            function(8)
