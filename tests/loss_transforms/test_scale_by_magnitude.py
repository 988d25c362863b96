"""Components in units of their running magnitude, which nothing poisons."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quadratics import KEY, differentiate, exact_gradients, exact_values, quadratic_loss

from stabjax.loss_transforms import scale_by_magnitude
from stabjax.losses import combine

ONE = jnp.float32(1.0)
TINY = 2.0**-125  # Below it XLA flushes a product or one of its factors to zero.


@functools.cache
def series_of(decay, floor):
    """Return a compiled function from raw values to magnitudes and weighted values."""
    loss_fn = scale_by_magnitude(
        combine({"fit": lambda p, b, k: p * b}, weights={"fit": 2.0}),
        decay=decay,
        floor=floor,
    )

    def one(state, batch):
        _, aux = loss_fn(ONE, batch, KEY, model_state=state)
        return aux["model_state"], (aux["magnitude/fit"], aux["weighted/fit"])

    state = loss_fn.init_model_state()
    return jax.jit(lambda batches: jax.lax.scan(one, state, batches)[1])


def run_series(series, *, decay=0.99, floor=1e-6):
    return series_of(decay, floor)(jnp.asarray(series, jnp.float32))


@given(
    st.lists(
        st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=False),
        min_size=12,
        max_size=12,
    ),
    st.sampled_from([0.0, 0.5, 0.9, 0.99]),
)
def test_the_magnitude_is_the_running_mean_of_absolute_values(series, decay):
    magnitude, weighted = run_series(series, decay=decay, floor=1e-6)
    mean = 0.0
    for seen, value in enumerate(np.float64(np.float32(series))):
        mean += max(1 / (seen + 1), 1 - decay) * (abs(value) - mean)
        size = max(abs(v) for v in series) + 1e-30
        np.testing.assert_allclose(magnitude[seen], mean, rtol=1e-5, atol=1e-6 * size)
        held = max(float(magnitude[seen]), float(np.float32(1e-6)))
        np.testing.assert_allclose(
            weighted[seen], 2 * value / held, rtol=1e-5, atol=TINY
        )


def test_the_first_step_divides_each_raw_value_by_itself():
    loss_fn = scale_by_magnitude(quadratic_loss())
    state = loss_fn.init_model_state()
    loss, _, gradient = differentiate(loss_fn, model_state=state)
    np.testing.assert_allclose(float(loss), 1.0 + 0.5 + 2.0, rtol=1e-6)
    values, exact = exact_values(), exact_gradients()
    raw = {"fit": 1.0, "flow": 0.5, "size": 2.0}
    wanted = sum(exact[n] * raw[n] / values[n] for n in raw)
    ours = np.concatenate(
        [np.ravel(gradient["trunk"]["w"]), np.ravel(gradient["head"])]
    )
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_does_not_enter(bad):
    magnitude, _ = run_series([4.0, bad, 2.0, bad])
    np.testing.assert_array_equal(magnitude, np.float32([4.0, 4.0, 3.0, 3.0]))


def test_a_component_that_vanishes_meets_the_floor():
    magnitude, weighted = run_series([0.0, 0.0], floor=0.5)
    assert magnitude.tolist() == weighted.tolist() == [0.0, 0.0]
    assert run_series([1e-3], floor=0.5)[1].tolist() == [np.float32(4e-3)]


def test_the_state_is_one_vector_of_floats_and_one_of_counts():
    state = scale_by_magnitude(quadratic_loss()).init_model_state({"mean": ONE})
    assert float(state.model["mean"]) == 1.0
    assert state.transform.magnitude.dtype == jnp.float32
    assert state.transform.seen.dtype == jnp.int32
    assert state.transform.seen.shape == state.transform.magnitude.shape == (3,)


def test_a_loss_without_its_state_is_refused():
    with pytest.raises(ValueError, match="model_state must be one of init_model_state"):
        scale_by_magnitude(quadratic_loss())(None, ONE, KEY)


def test_components_that_are_not_known_are_asked_for():
    plain = lambda p, b, k: (p, {"weighted/fit": p})
    with pytest.raises(ValueError, match=r"components are known.*name_components"):
        scale_by_magnitude(plain)


@pytest.mark.parametrize("option", [{"decay": 1.0}, {"decay": -0.1}, {"floor": 0.0}])
def test_an_option_out_of_its_range_is_refused(option):
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be in"):
        scale_by_magnitude(quadratic_loss(), **option)
