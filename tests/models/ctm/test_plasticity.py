"""Each documented fix of plasticity, in its three settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compilations import compilations
from hypothesis import given
from hypothesis import strategies as st

from stabjax.models.ctm import plasticity
from stabjax.models.ctm.plasticity import (
    bounded_losses,
    correlation,
    hebbian_loss,
    learning_signal,
    normalized_mcmc,
    spectral_norm,
    start,
)

OPTIONS = {"rate": 1e-2, "decay": 1e-3, "cap": 0.5}


def _f(x):
    return jnp.float32(x)


def _trace(key=0):
    return jax.random.normal(jax.random.key(key), (4, 6, 5))


def _step(state, signal, setting, c=None):
    c = correlation(_trace()) if c is None else c
    return plasticity.hebbian_step(state, c, _f(signal), _f(1.0), setting, **OPTIONS)


def test_correlation_is_that_of_numpy():
    trace = np.asarray(_trace(), np.float64)
    np.testing.assert_allclose(
        correlation(_trace()), np.corrcoef(trace.mean(axis=0)), atol=1e-5
    )


def test_a_constant_trace_has_zero_correlation_and_a_finite_gradient():
    c, grad = jax.value_and_grad(lambda t: jnp.sum(correlation(t) ** 2))(
        jnp.ones((2, 3, 4))
    )
    assert float(c) == 0.0
    assert bool(jnp.all(jnp.isfinite(grad)))


@pytest.mark.parametrize(("loss", "before"), [(3500.0, 8.16e-5), (-400.0, 0.0)])
def test_the_original_normalization_is_negligible_and_drops_negatives(loss, before):
    assert float(normalized_mcmc(_f(loss), "before")) == pytest.approx(before, rel=1e-2)


@given(st.floats(-1e6, 1e6, width=32))
def test_the_seeds_normalization_is_below_a_thousandth(loss):
    assert abs(float(normalized_mcmc(_f(loss), "seed"))) <= 7.62e-4
    assert float(normalized_mcmc(_f(loss), "sound")) == 0.0


@given(st.integers(0, 1000))
def test_the_original_hebbian_loss_is_a_constant(seed):
    c = correlation(_trace(seed))
    for setting in ("before", "seed"):
        assert float(hebbian_loss(c, setting, weight=0.1).value) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("setting", "scale", "value", "hit"),
    [("before", 1e7, 0.0, 0.0), ("seed", 10.0, 1e-3, 1.0)],
)
def test_lambda_explodes_only_for_silent_neurons(setting, scale, value, hit):
    made = hebbian_loss(jnp.zeros((4, 4)), setting, weight=0.1)
    assert float(made.scale) == pytest.approx(scale, rel=1e-4)
    assert float(made.value) == pytest.approx(value)
    assert float(made.floored) == hit


@pytest.mark.parametrize(("setting", "alive"), [
    ("before", False), ("seed", False), ("sound", True),
])  # fmt: skip
def test_only_the_sound_hebbian_loss_has_a_gradient(setting, alive):
    def loss(trace):
        return hebbian_loss(correlation(trace), setting, weight=0.1).value

    grad = jax.grad(loss)(_trace())
    assert bool(jnp.any(grad != 0.0)) is alive


def test_the_sound_hebbian_loss_ignores_the_diagonal():
    assert float(hebbian_loss(jnp.eye(4), "sound", weight=0.1).value) == 0.0
    ones = jnp.ones((4, 4))
    assert float(hebbian_loss(ones, "sound", weight=0.1).value) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("diffusion", "entropy", "before", "seed"),
    [
        (0.5, 2.3, 1.0, -0.716),
        (-0.48, 2.3, 1.0, -0.883),
        (-0.7, 0.5, 1.0, -0.537),
        (-0.76, 0.01, 0.77, -0.367),
    ],
)
def test_the_seed_silently_flipped_the_sign_of_the_signal(
    diffusion, entropy, before, seed
):
    state, nothing = start(3), _f(0.0)
    for setting, expected in (("before", before), ("seed", seed)):
        signal = learning_signal(state, _f(diffusion), _f(entropy), nothing, setting)
        assert float(signal) == pytest.approx(expected, abs=1e-3)


def _seasoned(losses):
    state = start(2)
    for loss in losses:
        state = plasticity.hebbian_step(
            state, jnp.eye(2), _f(0.0), _f(loss), "sound", **OPTIONS
        )
    return state


def test_the_sound_signal_rewards_what_went_better_than_expected():
    losses = np.random.default_rng(0).normal(2.0, 0.1, 50)
    state = _seasoned(losses)
    assert float(state.baseline) == pytest.approx(losses.mean(), rel=1e-4)
    assert float(state.variance) == pytest.approx(losses.var(), rel=1e-3)
    better, worse, same = (
        float(learning_signal(state, _f(0), _f(x), _f(0), "sound"))
        for x in (1.8, 2.2, float(state.baseline))
    )
    assert better > 0.5
    assert worse < -0.5
    assert abs(same) < 1e-3


@pytest.mark.parametrize("loss", [jnp.nan, jnp.inf, -jnp.inf])
def test_a_nonfinite_loss_gives_no_signal_and_moves_nothing(loss):
    state = _seasoned(np.linspace(1.0, 2.0, 30))
    state = state._replace(weights=jnp.full((2, 2), 0.1))
    handed = bounded_losses(_f(0.0), _f(loss), "sound")
    assert not bool(handed.usable)
    assert float(learning_signal(state, _f(0.0), _f(loss), _f(0.0), "sound")) == 0.0
    moved = plasticity.hebbian_step(
        state, jnp.eye(2), _f(1.0), _f(loss), "sound", **OPTIONS
    )
    jax.tree.map(np.testing.assert_array_equal, moved, state)


def test_the_seeds_clamp_of_losses_counts_its_hits():
    assert float(bounded_losses(_f(0.5), _f(2.3), "seed").hit) == 0.0
    handed = bounded_losses(_f(0.5), _f(50.0), "seed")
    assert float(handed.hit) == 1.0
    assert float(handed.entropy) == 10.0


def test_a_constant_signal_grows_the_original_weights_linearly():
    state, norms = start(6), []
    for _ in range(3):
        for _ in range(50):
            state = _step(state, 1.0, "before")
        norms.append(float(jnp.linalg.norm(state.weights)))
    assert norms[1] == pytest.approx(2 * norms[0], rel=1e-3)
    assert norms[2] == pytest.approx(3 * norms[0], rel=1e-3)


def test_the_seed_left_the_hebbian_step_as_it_was():
    one, other = (_step(start(6), 0.7, setting) for setting in ("before", "seed"))
    jax.tree.map(np.testing.assert_array_equal, one, other)


@given(st.integers(0, 1000), st.floats(-1.0, 1.0, width=32))
def test_the_sound_weights_never_pass_their_cap(seed, signal):
    weights = 0.5 * jax.random.normal(jax.random.key(seed), (6, 6))
    state = start(6)._replace(weights=weights)
    moved = _step(state, signal, "sound")
    assert float(jnp.linalg.norm(moved.weights)) <= OPTIONS["cap"] * (1 + 1e-6)


def test_the_step_is_pure_and_keeps_its_types_under_jit():
    state = start(6)
    jitted = jax.jit(lambda s: _step(s, 0.5, "sound"))
    once = jitted(state)
    with compilations() as compiled:
        again, twice = jitted(state), jitted(once)
    assert not compiled
    jax.tree.map(np.testing.assert_array_equal, once, again)
    assert jax.tree.map(lambda x: x.dtype, twice) == jax.tree.map(
        lambda x: x.dtype, state
    )


@pytest.mark.parametrize("seed", range(5))
def test_the_spectral_norm_is_the_largest_singular_value(seed):
    weights = np.random.default_rng(seed).normal(size=(8, 8))
    weights = weights @ weights.T  # as P is: symmetric
    largest = np.linalg.norm(weights, 2)
    estimate = float(spectral_norm(jnp.asarray(weights, jnp.float32)))
    assert 0.85 * largest <= estimate <= largest * (1 + 1e-4)


def test_the_spectral_norm_of_nothing_is_zero():
    assert float(spectral_norm(jnp.zeros((4, 4)))) == 0.0


@pytest.mark.parametrize("bound", [0.1, 5.0])
def test_the_bounds_of_the_seed_are_options(bound):
    state = start(4)
    # Terms of 1, -1 and 0: within a bound of 5, beyond one of a tenth.
    signal = learning_signal(state, _f(1.0), _f(-1.0), _f(0.0), "seed", bound=bound)
    assert float(signal) == pytest.approx(np.tanh(min(bound, 1.0)), rel=1e-6)
    handed = bounded_losses(_f(1.0), _f(-1.0), "seed", bound=bound)
    assert float(handed.diffusion) == pytest.approx(min(bound, 1.0))
    assert float(handed.hit) == float(bound < 1.0)
