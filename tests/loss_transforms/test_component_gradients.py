"""Norms and cosines of the gradients of components, measured when asked for."""

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
    differentiate,
    exact_gradients,
    params_of,
    quadratic_loss,
    vector_of,
)

from stabjax.health import decode
from stabjax.loss_transforms import component_cosines, component_gradient_norms
from stabjax.losses import weigh
from stabjax.train_step import make_train_step

PAIRS = [("fit", "flow"), ("fit", "size"), ("flow", "size")]


def test_each_norm_is_that_of_the_gradient_of_one_component_on_one_group():
    loss_fn = component_gradient_norms(quadratic_loss(), ["trunk", "head"])
    _, aux, gradient = differentiate(loss_fn)
    _, _, plain = differentiate(quadratic_loss())
    np.testing.assert_array_equal(vector_of(gradient), vector_of(plain))
    for name, exact in exact_gradients().items():
        for group, part in (("trunk", exact[:3]), ("head", exact[3:])):
            ours = float(aux[f"gradient/{name}/{group}"])
            np.testing.assert_allclose(ours, np.linalg.norm(part), rtol=1e-5)
    assert float(aux["disconnected"]) == 0.0


def test_each_cosine_is_that_of_two_gradients():
    _, aux, gradient = differentiate(component_cosines(quadratic_loss()))
    _, _, plain = differentiate(quadratic_loss())
    np.testing.assert_array_equal(vector_of(gradient), vector_of(plain))
    exact = exact_gradients()
    for first, second in PAIRS:
        cosine = exact[first] @ exact[second]
        cosine /= np.linalg.norm(exact[first]) * np.linalg.norm(exact[second])
        np.testing.assert_allclose(
            float(aux[f"cosine/{first}/{second}"]), cosine, rtol=1e-4, atol=1e-6
        )
    assert len([n for n in aux if n.startswith("cosine/")]) == 3


def linear_terms(params, batch, key):
    return {name: jnp.sum(params * batch[i]) for i, name in enumerate(NAMES)}, {}


@pytest.fixture(scope="module")
def measured():
    loss_fn = component_cosines(
        component_gradient_norms(
            weigh(linear_terms, weights=dict.fromkeys(NAMES, 1.0)), []
        )
    )
    return jax.jit(lambda slopes: loss_fn(jnp.zeros(4), slopes, None)[1])


@given(st.integers(0, 10**6), st.lists(st.integers(-90, 120), min_size=3, max_size=3))
def test_they_are_right_where_squares_overflow_or_vanish(measured, seed, powers):
    slopes = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
    slopes = np.ldexp(slopes, np.array(powers)[:, None]).astype(np.float32)
    aux, exact = measured(slopes), np.float64(slopes)
    norms = np.linalg.norm(exact, axis=1)
    for index, name in enumerate(NAMES):
        if norms[index] > 2.0**-55:  # Below, the square is flushed to zero.
            ours = float(aux[f"gradient/{name}/rest"])
            np.testing.assert_allclose(ours, norms[index], rtol=1e-5)
    for (i, first), (j, second) in [
        (a, b) for a in enumerate(NAMES) for b in enumerate(NAMES) if a[0] < b[0]
    ]:
        cosine = (exact[i] / norms[i]) @ (exact[j] / norms[j])
        ours = float(aux[f"cosine/{first}/{second}"])
        np.testing.assert_allclose(ours, cosine, atol=2e-6)
        assert -1.0 <= ours <= 1.0


def test_a_gradient_of_zero_has_the_cosine_zero(measured):
    slopes = jnp.asarray([[1.0, 2.0, 0.0, 0.0], [0.0] * 4, [2.0, 4.0, 0.0, 0.0]])
    aux = measured(slopes)
    assert float(aux["cosine/fit/flow"]) == 0.0
    np.testing.assert_allclose(float(aux["cosine/fit/size"]), 1.0, rtol=1e-6)


def test_a_gradient_that_is_not_finite_shows_in_its_own_entries_alone(measured):
    slopes = jnp.asarray([[1.0, 0.0, 0.0, 0.0], [np.nan] * 4, [0.0, 1.0, 0.0, 0.0]])
    aux = measured(slopes)
    assert np.isnan(float(aux["gradient/flow/rest"]))
    assert np.isnan(float(aux["cosine/fit/flow"]))
    assert float(aux["cosine/fit/size"]) == 0.0
    assert float(aux["gradient/fit/rest"]) == 1.0


@pytest.mark.slow
@pytest.mark.parametrize("build", [component_cosines, component_gradient_norms])
def test_every_third_step_measures_and_the_others_report_nan(build):
    loss_fn = build(quadratic_loss(), every=3)
    assert loss_fn.wants_step
    assert not build(quadratic_loss()).wants_step
    train = make_train_step(loss_fn, optax.sgd(0.001))
    state = train.init(params_of(), jnp.float32(1.0))
    state, _ = train.many_steps(state, jnp.ones((5,)), KEY)
    telemetry = state.telemetry
    rows = decode(
        train.schema(state), np.asarray(telemetry.floats), np.asarray(telemetry.ints)
    )
    prefix = ("cosine/", "gradient/")
    for step, row in enumerate(rows):
        shown = [value for name, value in row.items() if name.startswith(prefix)]
        assert len(shown) == 3
        assert np.all(np.isfinite(shown) if step % 3 == 0 else np.isnan(shown)), step
        assert row["accepted"] == 1


def test_in_the_steps_between_the_backward_passes_are_not_run():
    loss_fn = component_gradient_norms(quadratic_loss(), every=3)
    args = (params_of(), jnp.float32(1.0), KEY)
    text = str(jax.make_jaxpr(lambda step: loss_fn(*args, step=step))(jnp.int32(0)))
    assert text.count("cond[") == 1


def test_what_is_reported_has_no_gradient():
    loss_fn = component_cosines(quadratic_loss())
    report = lambda p: loss_fn(p, jnp.float32(1.0), KEY)[1]["cosine/fit/flow"]
    np.testing.assert_array_equal(vector_of(jax.grad(report)(params_of())), 0.0)


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
@pytest.mark.parametrize("build", [component_cosines, component_gradient_norms])
def test_a_period_that_is_no_whole_number_is_refused(build, every):
    with pytest.raises((ValueError, TypeError)):
        build(quadratic_loss(), every=every)
