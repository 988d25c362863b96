"""A component that is not finite leaves the rest training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratics import (
    KEY,
    START,
    differentiate,
    exact_gradients,
    params_of,
    quadratic_loss,
    terms,
    vector_of,
)

from stabjax.health import decode
from stabjax.loss_transforms import bound_component, drop_nonfinite_component, pcgrad
from stabjax.losses import combine, weigh
from stabjax.train_step import make_train_step

WEIGHTS = {"fit": 1.0, "flow": 0.5, "size": 2.0, "bad": 1.0}


def broken_terms(params, batch, key):
    """Add a root that shares parameters; value and gradient NaN for a batch < 0."""
    raw, aux = terms(params, jnp.abs(batch), key)
    raw["bad"] = jnp.sum(jnp.sqrt(batch * jnp.exp(params["trunk"]["w"])))
    return raw, aux


def broken_loss():
    return weigh(broken_terms, weights=WEIGHTS)


def test_value_and_gradient_are_those_of_the_others():
    loss, aux, gradient = differentiate(
        drop_nonfinite_component(broken_loss()), None, -1.0
    )
    expected, _, _ = differentiate(quadratic_loss())
    assert float(loss) == float(expected)
    np.testing.assert_allclose(
        vector_of(gradient), sum(exact_gradients().values()), rtol=1e-5
    )
    assert [float(aux[f"dropped/{n}"]) for n in WEIGHTS] == [0.0, 0.0, 0.0, 1.0]
    assert float(aux["raw/bad"]) == float(aux["weighted/bad"]) == 0.0
    assert np.isnan(float(aux["as_computed/bad"]))
    assert float(aux["as_computed/fit"]) == float(aux["raw/fit"])


def test_while_all_are_finite_nothing_changes():
    loss, aux, gradient = differentiate(drop_nonfinite_component(broken_loss()))
    expected, before, wanted = differentiate(broken_loss())
    assert float(loss) == float(expected)
    np.testing.assert_array_equal(vector_of(gradient), vector_of(wanted))
    assert all(float(aux[f"dropped/{n}"]) == 0.0 for n in WEIGHTS)
    assert all(float(aux[n]) == float(before[n]) for n in before)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_gradient_of_what_is_dropped_is_exactly_zero(bad):
    inner = combine(
        {
            "fit": lambda p, b, k: jnp.sum(p["a"]),
            "bad": lambda p, b, k: jnp.sum(p["b"] * b) + 0.0 * jnp.sum(p["a"] * b),
        }
    )
    params = {"a": jnp.ones(3), "b": jnp.ones(2)}
    _, _, gradient = differentiate(drop_nonfinite_component(inner), params, bad)
    np.testing.assert_array_equal(gradient["a"], np.ones(3))
    np.testing.assert_array_equal(gradient["b"], np.zeros(2))


def norm_terms(params, batch, key):
    raw, aux = terms(params, batch, key)
    raw["bad"] = jnp.sqrt(jnp.sum((0.0 * params["head"]) ** 2))
    return raw, aux


def test_a_finite_component_with_a_nan_gradient_is_dropped_on_request():
    inner = weigh(norm_terms, weights=WEIGHTS)
    _, aux, gradient = differentiate(drop_nonfinite_component(inner))
    assert float(aux["dropped/bad"]) == 0.0
    assert not np.all(np.isfinite(vector_of(gradient)))  # The step is refused.
    _, aux, gradient = differentiate(
        drop_nonfinite_component(inner, check_gradient=True)
    )
    assert float(aux["dropped/bad"]) == 1.0
    np.testing.assert_allclose(
        vector_of(gradient), sum(exact_gradients().values()), rtol=1e-5
    )


def test_if_nothing_is_left_the_loss_is_not_finite():
    loss, aux, _ = differentiate(drop_nonfinite_component(broken_loss()), None, np.nan)
    assert np.isnan(float(loss))
    assert all(float(aux[f"dropped/{n}"]) == 0.0 for n in WEIGHTS)


@pytest.mark.parametrize("form", ["branch", "select"])
def test_the_rest_goes_on_training_through_the_train_step(form):
    train = make_train_step(
        drop_nonfinite_component(broken_loss()), optax.sgd(0.01), form=form
    )
    state = train.init(params_of(), jnp.float32(1.0))
    batches = jnp.asarray([1.0, -1.0, -1.0, 1.0])
    state, _ = train.many_steps(state, batches, KEY)
    vector = START.copy()
    for batch in np.asarray(batches):
        slope = sum(exact_gradients(vector).values())
        if batch > 0:
            slope[:3] += 0.5 * np.exp(vector[:3] / 2)
        vector = vector - 0.01 * slope
    np.testing.assert_allclose(vector_of(state.params), vector, rtol=1e-5)
    telemetry = state.telemetry
    rows = decode(
        train.schema(state), np.asarray(telemetry.floats), np.asarray(telemetry.ints)
    )
    assert [row["accepted"] for row in rows] == [1, 1, 1, 1]
    assert [row["dropped/bad"] for row in rows] == [0.0, 1.0, 1.0, 0.0]
    assert [row["alerts"] for row in rows] == [0, 0, 0, 0]


def test_a_nested_total_is_dropped_with_what_it_reports():
    inner = weigh(
        lambda p, b, k: ({"log": jnp.log(p), "half": p}, {}),
        weights={"log": 1.0, "half": 0.5},
    )
    outer = combine({"inner": inner, "size": lambda p, b, k: p**2})
    loss_fn = drop_nonfinite_component(outer)
    loss, aux, gradient = differentiate(loss_fn, jnp.float32(-1.0))
    assert (float(loss), float(gradient)) == (1.0, -2.0)
    assert (float(aux["dropped/inner"]), float(aux["dropped/size"])) == (1.0, 0.0)
    reported = [n for n in aux if n.startswith(("raw/", "weighted/"))]
    assert all(np.isfinite(float(aux[name])) for name in reported)
    assert np.isnan(float(aux["as_computed/log"]))


def test_a_transform_outside_sees_the_gradient_of_what_is_left():
    dropped = drop_nonfinite_component(broken_loss())
    loss_fn = bound_component(dropped, "fit", lambda x: 3.0 * x)
    exact = exact_gradients()
    _, _, gradient = differentiate(loss_fn, None, -1.0)
    wanted = 3 * exact["fit"] + exact["flow"] + exact["size"]
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-5)
    _, _, gradient = differentiate(pcgrad(dropped), None, -1.0)
    assert np.all(np.isfinite(vector_of(gradient)))


def products_in(program):
    return str(program).count("dot_general")


def test_it_costs_one_backward_pass_while_all_is_finite():
    def shared(params, batch, key):
        hidden = jnp.tanh(jnp.tanh(batch @ params) @ params)
        return {"mean": jnp.mean(hidden), "size": jnp.sum(hidden**2)}, {}

    loss_fn = weigh(shared, weights={"mean": 1.0, "size": 1.0})
    arguments = (jnp.eye(2), jnp.ones((3, 2)), KEY)
    forward = products_in(jax.make_jaxpr(loss_fn)(*arguments))
    plain = products_in(jax.make_jaxpr(jax.grad(loss_fn, has_aux=True))(*arguments))
    dropping = jax.grad(drop_nonfinite_component(loss_fn), has_aux=True)
    program = jax.make_jaxpr(dropping)(*arguments)
    [choice] = [e for e in program.eqns if e.primitive.name == "cond"]
    _, when_all_are_finite = choice.params["branches"]
    assert products_in(when_all_are_finite) == plain - forward > 0
