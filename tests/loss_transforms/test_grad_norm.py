"""GradNorm against a reference in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratics import (
    KEY,
    NAMES,
    START,
    differentiate,
    exact_gradients,
    exact_values,
    params_of,
    quadratic_loss,
    vector_of,
)

from stabjax.loss_transforms import grad_norm
from stabjax.losses import weigh

RATE, STRENGTH = 0.1, 1.5
ONE = jnp.float32(1.0)


def reference(vectors, members):
    """Return the weights before each step, in float64."""
    log_weights, initial, history = np.zeros(3), None, []
    for vector in vectors:
        history.append(np.exp(log_weights))
        values = np.array([exact_values(vector)[n] for n in NAMES])
        gradients = [exact_gradients(vector)[n][members] for n in NAMES]
        scaled = np.exp(log_weights) * np.linalg.norm(gradients, axis=1)
        initial = values if initial is None else initial
        left = values / initial
        mean = scaled.mean()
        target = mean * (left / left.mean()) ** STRENGTH
        log_weights = log_weights - RATE * scaled / mean * np.sign(scaled - target)
        log_weights = log_weights - np.log(np.mean(np.exp(log_weights)))
    return np.stack(history)


@pytest.mark.parametrize("shared", [(), ("trunk",), ("head", "trunk")])
def test_the_weights_are_those_of_the_reference(shared):
    loss_fn = grad_norm(quadratic_loss(), shared, strength=STRENGTH, learning_rate=RATE)
    members = slice(0, 3) if shared == ("trunk",) else slice(0, 5)
    vectors = [START + 0.3 * step for step in range(8)]
    state, step = loss_fn.init_model_state(), jax.jit(loss_fn)
    for vector, weights in zip(vectors, reference(vectors, members), strict=True):
        _, aux = step(params_of(vector), ONE, KEY, model_state=state)
        ours = [float(aux[f"weight/{n}"]) for n in NAMES]
        np.testing.assert_allclose(ours, weights, rtol=1e-4)
        norms = [np.linalg.norm(exact_gradients(vector)[n][members]) for n in NAMES]
        shown = [float(aux[f"shared_norm/{n}"]) for n in NAMES]
        np.testing.assert_allclose(shown, weights * norms, rtol=1e-4)
        state = aux["model_state"]
    assert int(state.transform.seen) == 8


def test_the_gradient_is_weighted_and_the_weights_are_held_constant():
    loss_fn = grad_norm(quadratic_loss(), learning_rate=RATE)
    state = loss_fn.init_model_state()
    weights = np.array([0.5, 1.5, 1.0])
    moved = state.transform._replace(log_weights=jnp.log(jnp.float32(weights)))
    state = state._replace(transform=moved)
    loss, _, gradient = differentiate(loss_fn, model_state=state)
    values, exact = exact_values(), exact_gradients()
    parts = list(zip(weights, NAMES, strict=True))
    np.testing.assert_allclose(float(loss), sum(w * values[n] for w, n in parts), 1e-6)
    wanted = sum(w * exact[n] for w, n in parts)
    np.testing.assert_allclose(vector_of(gradient), wanted, rtol=1e-5)


@functools.cache
def updated_weights():
    """Return the logarithms of the weights after one step on given slopes."""
    names = ("a", "b", "c")
    terms = lambda p, b, k: ({n: p * b[n] for n in names}, {})
    inner = weigh(terms, weights=dict.fromkeys(names, 1.0))
    loss_fn = grad_norm(inner, strength=1.0, learning_rate=1.0)

    def step(slopes, logs):
        state = loss_fn.init_model_state()
        own = state.transform._replace(
            log_weights=logs, initial=jnp.ones(3), seen=jnp.int32(1)
        )
        state = state._replace(transform=own)
        batch = dict(zip(names, slopes, strict=True))
        _, aux = loss_fn(ONE, batch, None, model_state=state)
        return aux["model_state"].transform.log_weights

    return jax.jit(step)


POSITIVE = st.floats(2.0**-60, 2.0**60, width=32)


@given(
    st.lists(POSITIVE, min_size=3, max_size=3),
    st.lists(st.floats(-8.0, 1.0, width=32), min_size=3, max_size=3),
)
def test_the_weights_stay_positive_and_add_up_to_their_number(slopes, logs):
    after = updated_weights()(jnp.float32(slopes), jnp.float32(logs))
    assert np.all(np.isfinite(after))
    np.testing.assert_allclose(np.sum(np.exp(np.float64(after))), 3.0, rtol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_slope_that_is_not_finite_moves_nothing(bad):
    logs = jnp.float32([0.1, -0.2, 0.05])
    after = updated_weights()(jnp.float32([1.0, bad, 2.0]), logs)
    np.testing.assert_array_equal(after, logs)


def test_large_and_small_components_end_up_with_equal_gradients():
    terms = lambda p, b, k: ({"large": 50.0 * p, "small": p}, {})
    inner = weigh(terms, weights={"large": 1.0, "small": 1.0})
    loss_fn = grad_norm(inner, strength=0.0, learning_rate=0.01)

    def one(state, _):
        _, aux = loss_fn(ONE, None, None, model_state=state)
        return aux["model_state"], (aux["shared_norm/large"], aux["shared_norm/small"])

    scan = jax.jit(lambda s: jax.lax.scan(one, s, None, length=600))
    _, (large, small) = scan(loss_fn.init_model_state())
    assert float(large[0] / small[0]) == 50.0
    np.testing.assert_allclose(large[-1] / small[-1], 1.0, atol=0.05)


def test_a_prefix_that_fits_no_parameter_is_answered_with_the_nearest():
    loss_fn = grad_norm(quadratic_loss(), ["trnk"])
    with pytest.raises(ValueError, match=r"under 'trnk'\. Did you mean 'trunk'"):
        differentiate(loss_fn, model_state=loss_fn.init_model_state())


@pytest.mark.parametrize(
    "option",
    [{"strength": -1.0}, {"learning_rate": 2.0}, {"shared": "trunk"}],
)
def test_an_option_out_of_its_range_is_refused(option):
    with pytest.raises(ValueError, match=f"grad_norm: {next(iter(option))} must be"):
        grad_norm(quadratic_loss(), **option)
