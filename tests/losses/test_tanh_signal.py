"""The bounded learning signal against float64 and against its seed."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import tanh_signal

SEED = functools.partial(tanh_signal, weights=(1, -1, -1))
SLOPES = jax.jit(jax.grad(lambda terms: jnp.sum(SEED(terms))))
LOSSES = hnp.arrays(np.float32, (4, 3), elements=st.floats(-20.0, 20.0, width=32))


def oracle(terms, weights=(1, -1, -1), limit=5.0, scale=2.0):
    bounded = np.clip(np.asarray(terms, np.float64), -limit, limit)
    return (bounded * np.asarray(weights)).sum(-1) / scale


@given(LOSSES)
def test_it_is_the_formula_of_the_seed(losses):
    signal = SEED(jnp.asarray(losses))
    # Three numbers of size five are added: an absolute error of their rounding.
    np.testing.assert_allclose(signal, np.tanh(oracle(losses)), rtol=1e-5, atol=2e-6)


def test_the_values_that_the_seeds_losses_give_are_all_negative():
    # Diffusion loss and cross-entropy at four points of a run, as first documented.
    pairs = np.array([[0.5, 2.3], [-0.48, 2.3], [-0.7, 0.5], [-0.76, 0.01]])
    terms = jnp.asarray(np.pad(pairs, ((0, 0), (0, 1))), jnp.float32)
    np.testing.assert_allclose(SEED(terms), [-0.72, -0.88, -0.54, -0.37], atol=5e-3)


@given(LOSSES)
def test_the_gradient_is_the_formula_and_zero_beyond_the_limit(losses):
    gradient = SLOPES(losses)
    inside = np.abs(losses) <= 5.0
    slope = np.array([1, -1, -1]) / 2.0 / np.cosh(oracle(losses)[:, None]) ** 2
    expected = np.where(inside, slope, 0.0)
    np.testing.assert_allclose(gradient, expected, rtol=2e-5, atol=1e-9)


def test_one_exploding_term_does_not_decide_alone():
    calm = SEED(jnp.array([1.0, 4.0, -4.0]))
    wild = SEED(jnp.array([jnp.inf, 4.0, 4.0]))
    assert -0.99 < float(calm) < 0.99
    np.testing.assert_allclose(wild, np.tanh(-1.5), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_every_dtype_gives_float32(dtype):
    terms = jnp.asarray([[0.5, 2.5, -1.0]], dtype)
    signal = jax.jit(SEED)(terms)
    assert signal.dtype == jnp.float32
    np.testing.assert_allclose(signal, np.tanh([-0.5]), rtol=1e-6)


def test_each_term_needs_a_weight():
    with pytest.raises(AssertionError, match="dimension"):
        tanh_signal(jnp.ones(3), weights=(1, -1))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"limit": 0.0}, "limit"),
        ({"scale": -1.0}, "scale"),
        ({"weights": (1.0, np.nan, 1.0)}, r"\|weights\[1\]\| \* limit"),
        ({"weights": (1.0, 1.0, 1e30)}, r"\|weights\[2\]\| \* limit"),
    ],
)
def test_options_out_of_range_are_refused(options, name):
    with pytest.raises(ValueError, match=f"tanh_signal: {name} must be in"):
        tanh_signal(jnp.ones(3), **{"weights": (1, -1, -1)} | options)
