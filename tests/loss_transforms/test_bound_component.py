"""One component bounded, the others as they were."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratics import (
    KEY,
    START,
    differentiate,
    exact_gradients,
    exact_values,
    quadratic_loss,
    vector_of,
)

from stabjax.loss_transforms import bound_component
from stabjax.losses import asinh_compress, combine, hard_clamp, soft_clamp

BOUNDS = {
    "soft": (
        functools.partial(soft_clamp, scale=20.0),
        lambda x: 20 * np.tanh(x / 20),
        lambda x: np.cosh(x / 20) ** -2.0,
    ),
    "compressed": (
        functools.partial(asinh_compress, scale=2.0),
        lambda x: 2 * np.arcsinh(x / 2),
        lambda x: 1 / np.sqrt(1 + (x / 2) ** 2),
    ),
    "hard": (
        functools.partial(hard_clamp, low=0.0, high=1.0),
        lambda x: np.clip(x, 0, 1),
        lambda x: float(0 <= x <= 1),
    ),
}


@pytest.mark.parametrize("kind", BOUNDS)
def test_value_and_gradient_go_through_the_bound_of_one_component(kind):
    bound, value_of, slope_of = BOUNDS[kind]
    loss, aux, gradient = differentiate(
        bound_component(quadratic_loss(), "flow", bound)
    )
    values, gradients = exact_values(), exact_gradients()
    slope = slope_of(values["flow"])
    values["flow"], gradients["flow"] = (
        value_of(values["flow"]),
        slope * gradients["flow"],
    )
    np.testing.assert_allclose(float(loss), sum(values.values()), rtol=1e-6)
    np.testing.assert_allclose(vector_of(gradient), sum(gradients.values()), rtol=1e-5)
    np.testing.assert_allclose(float(aux["weighted/flow"]), values["flow"], rtol=1e-6)
    np.testing.assert_allclose(float(aux["slope/flow"]), slope, rtol=1e-4, atol=1e-30)
    assert float(aux["saturated/flow"]) == float(slope <= 0.01)


@given(st.floats(-(2.0**100), 2.0**100, width=32), st.floats(0.0, 1.0))
def test_it_counts_as_saturated_where_little_gradient_is_left(value, saturation):
    inner = combine({"fit": lambda p, b, k: p})
    bound = functools.partial(asinh_compress, scale=1.0)
    loss_fn = bound_component(inner, "fit", bound, saturation=saturation)
    _, aux = loss_fn(jnp.float32(value), None, KEY)
    slope = float(aux["slope/fit"])
    exact = 1.0 / np.sqrt(1.0 + np.float64(np.float32(value)) ** 2)
    np.testing.assert_allclose(slope, exact, rtol=1e-5)
    assert float(aux["saturated/fit"]) == float(
        np.float32(slope) <= np.float32(saturation)
    )


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_bound_repairs_nothing_that_is_not_finite(value):
    inner = combine({"fit": lambda p, b, k: p})
    loss_fn = bound_component(inner, "fit", BOUNDS["soft"][0])
    _, aux = loss_fn(jnp.float32(value), None, KEY)
    assert not np.isfinite(float(aux["raw/fit"]))
    if np.isnan(value):
        assert np.isnan(float(aux["weighted/fit"]))
        assert float(aux["saturated/fit"]) == 0.0


def test_hits_of_a_hard_clamp_are_counted():
    low, high = 0.0, exact_values(START)["fit"] / 2
    bound = functools.partial(hard_clamp, low=low, high=high)
    _, aux, gradient = differentiate(bound_component(quadratic_loss(), "fit", bound))
    assert float(aux["saturated/fit"]) == 1.0
    others = exact_gradients()
    np.testing.assert_allclose(
        vector_of(gradient), others["flow"] + others["size"], rtol=1e-5
    )


def test_two_components_can_be_bounded():
    bound = functools.partial(soft_clamp, scale=1.0)
    loss_fn = bound_component(
        bound_component(quadratic_loss(), "fit", bound), "flow", bound
    )
    _, aux, _ = differentiate(loss_fn)
    assert float(aux["weighted/fit"]) <= 1.0
    assert float(aux["weighted/flow"]) <= 1.0


def test_a_typo_is_answered_with_the_nearest_name():
    with pytest.raises(ValueError, match="'fti'; did you mean 'fit'"):
        bound_component(quadratic_loss(), "fti", jnp.tanh)
    plain = lambda p, b, k: (p, {"weighted/fit": p})
    with pytest.raises(ValueError, match="'fti'; did you mean 'fit'"):
        bound_component(plain, "fti", jnp.tanh)(jnp.float32(1.0), None, KEY)


@pytest.mark.parametrize("saturation", [-0.1, 1.5, np.nan])
def test_a_saturation_that_is_no_share_is_refused(saturation):
    with pytest.raises(ValueError, match=r"saturation must be in \[0, 1\]"):
        bound_component(quadratic_loss(), "fit", jnp.tanh, saturation=saturation)


def test_the_slope_costs_the_gradient_nothing():
    inner = combine({"fit": lambda p, b, k: p**3})
    loss_fn = bound_component(inner, "fit", jnp.tanh)
    slope_of = jax.grad(lambda p: loss_fn(p, None, KEY)[1]["slope/fit"])
    assert float(slope_of(jnp.float32(0.5))) == 0.0
