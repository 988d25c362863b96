"""One trained noise per component, bounded where the paper's is not."""

import functools

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
    exact_gradients,
    exact_values,
    params_of,
    quadratic_loss,
    vector_of,
)

from stabjax.loss_transforms import WithTransform, uncertainty_weighting
from stabjax.losses import combine
from stabjax.train_step import make_train_step

LIMIT = 5.0
FACTORS = {"fit": 0.5, "flow": 1.0, "size": 0.5}


@functools.cache
def loss_and_gradient():
    loss_fn = uncertainty_weighting(quadratic_loss(), likelihoods=["flow"], limit=LIMIT)
    grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    model = params_of()
    return lambda trained: grad_fn(WithTransform(model, trained), jnp.float32(1.0), KEY)


@given(st.lists(st.floats(-64.0, 64.0, width=32), min_size=3, max_size=3))
def test_value_and_gradient_are_those_of_the_formula(numbers):
    trained = {n: jnp.float32(x) for n, x in zip(NAMES, numbers, strict=True)}
    (loss, aux), gradient = loss_and_gradient()(trained)
    values, exact = exact_values(), exact_gradients()
    total, slope = 0.0, 0.0
    for name, p in zip(NAMES, np.float64(numbers), strict=True):
        s = LIMIT * np.tanh(p / LIMIT)
        factor = FACTORS[name] * np.exp(-s)
        total += factor * values[name] + s / 2
        slope = slope + factor * exact[name]
        own = (0.5 - factor * values[name]) / np.cosh(p / LIMIT) ** 2
        size = (0.5 + factor * values[name]) / np.cosh(p / LIMIT) ** 2
        ours = float(gradient.transform[name])
        np.testing.assert_allclose(ours, own, rtol=2e-5, atol=2e-5 * size)
        # Below the smallest normal number p / LIMIT is flushed to zero.
        logged = float(aux[f"log_variance/{name}"])
        flushed = LIMIT * float(np.finfo(np.float32).tiny)
        np.testing.assert_allclose(logged, s, rtol=1e-5, atol=flushed)
    np.testing.assert_allclose(float(loss), total, rtol=1e-5, atol=1e-4)
    size = np.max(np.abs(slope))
    np.testing.assert_allclose(
        vector_of(gradient.model), slope, rtol=2e-5, atol=2e-5 * size
    )


def test_the_weight_tends_to_one_over_the_component():
    inner = combine(
        {"large": lambda p, b, k: 100.0 + 0 * p, "none": lambda p, b, k: 0 * p}
    )
    loss_fn = uncertainty_weighting(inner, limit=6.0)
    train = make_train_step(loss_fn, optax.adam(0.1, b2=0.9))
    state = train.init(loss_fn.init_params(jnp.float32(1.0)), jnp.zeros(()))
    state, _ = train.many_steps(state, jnp.zeros((500,)), KEY)
    trained = state.params.transform
    s = 6.0 * np.tanh(float(trained["large"]) / 6.0)
    np.testing.assert_allclose(s, np.log(100.0), rtol=1e-3)
    # A component of zero drives the paper's weight to infinity; here it is bounded.
    assert -6.0 <= 6.0 * np.tanh(float(trained["none"]) / 6.0) < -5.0


def test_its_parameters_stay_in_single_precision_beside_those_of_half():
    loss_fn = uncertainty_weighting(quadratic_loss())
    params = loss_fn.init_params(params_of(dtype=jnp.bfloat16))
    assert params.model["head"].dtype == jnp.bfloat16
    assert all(p.dtype == jnp.float32 for p in params.transform.values())
    assert sorted(params.transform) == sorted(NAMES)


def test_parameters_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="params must be those of init_params"):
        uncertainty_weighting(quadratic_loss())(params_of(), jnp.float32(1.0), KEY)


def test_options_out_of_range_are_refused():
    for limit in (0.0, 41.0, np.nan):
        with pytest.raises(ValueError, match="limit must be in"):
            uncertainty_weighting(quadratic_loss(), limit=limit)
    with pytest.raises(ValueError, match="'flwo'; did you mean 'flow'"):
        uncertainty_weighting(quadratic_loss(), likelihoods=["flwo"])
    inner = combine({"uncertainty": lambda p, b, k: p})
    with pytest.raises(ValueError, match="no component of the loss"):
        uncertainty_weighting(inner)
