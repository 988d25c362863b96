"""Four measures of cycles against float64, to a hundred nodes in float32."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.guards import GUARDS
from stabjax.losses import acyclicity, in_acyclicity_domain
from stabjax.train_step import make_train_step

METHODS = ("exponential", "polynomial", "log_determinant", "spectral")
in_domain = jax.jit(in_acyclicity_domain, static_argnames="bound")
compiled = jax.jit(acyclicity, static_argnames=("method", "bound"))
value_and_grad = jax.jit(
    jax.value_and_grad(acyclicity), static_argnames=("method", "bound")
)
LARGEST = float(np.float32(1e15))
WEIGHTS = hnp.arrays(
    np.float32,
    (5, 5),
    elements=st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False),
)


def graph(nodes, radius, seed, density=1.0):
    """Return weights whose squares have the given spectral radius."""
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(nodes, nodes)) * (rng.random((nodes, nodes)) < density)
    largest = np.max(np.abs(np.linalg.eigvals(weights**2)))
    return (weights * np.sqrt(radius / largest)).astype(np.float32)


def exponential(matrix):
    """Return exp(matrix) in float64 by scaling and squaring."""
    halvings = max(0, math.ceil(math.log2(np.abs(matrix).sum(0).max() + 1e-9)) + 4)
    term = total = np.eye(len(matrix))
    for k in range(1, 20):
        term = term @ (matrix / 2**halvings) / k
        total = total + term
    return np.linalg.matrix_power(total, 2**halvings)


def oracle(weights, method, bound=1.0):
    """Return value and gradient in float64."""
    weights = np.asarray(weights, np.float64)
    squares, nodes = weights**2, len(weights)
    eye = np.eye(nodes)
    if method == "exponential":
        full = exponential(squares)
        return np.trace(full) - nodes, 2 * weights * full.T
    if method == "polynomial":
        power = np.linalg.matrix_power(eye + squares / nodes, nodes - 1)
        value = np.trace(power @ (eye + squares / nodes)) - nodes
        return value, 2 * weights * power.T
    if method == "log_determinant":
        inverse = np.linalg.inv(bound * eye - squares)
        value = nodes * np.log(bound) - np.linalg.slogdet(bound * eye - squares)[1]
        return value, 2 * weights * inverse.T
    values, right = np.linalg.eig(squares)
    best = np.argmax(values.real)
    left = np.linalg.inv(right)[best]
    return values[best].real, 2 * weights * np.outer(left, right[:, best]).real


@pytest.mark.optimized
@pytest.mark.parametrize("method", ["exponential", "polynomial", "spectral"])
@pytest.mark.parametrize("radius", [0.1, 3.0, 30.0])
def test_value_and_gradient_match_float64(method, radius):
    weights = graph(100, radius, seed=10)
    value, gradient = value_and_grad(jnp.asarray(weights), method=method)
    exact, slope = oracle(weights, method)
    np.testing.assert_allclose(value, exact, rtol=2e-6)
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-30)


@pytest.mark.optimized
@pytest.mark.parametrize("radius", [0.01, 0.9])
@pytest.mark.parametrize("bound", [1.0, 4.0])
def test_log_determinant_matches_float64_inside_its_domain(radius, bound):
    weights = graph(100, radius * bound, seed=3)
    value, gradient = value_and_grad(
        jnp.asarray(weights), method="log_determinant", bound=bound
    )
    exact, slope = oracle(weights, "log_determinant", bound)
    np.testing.assert_allclose(value, exact, rtol=5e-6)
    np.testing.assert_allclose(gradient, slope, rtol=2e-5, atol=1e-30)


def test_the_exponential_is_right_to_the_radius_that_it_states():
    weights = graph(100, 70.0, seed=1)
    value, gradient = value_and_grad(jnp.asarray(weights), method="exponential")
    exact, slope = oracle(weights, "exponential")
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [1e-10, 1.0, 1e15])
def test_an_acyclic_graph_is_exactly_zero_however_large_its_weights(method, size):
    rng = np.random.default_rng(0)
    weights = np.triu(rng.normal(size=(100, 100)), 1) * size
    order = rng.permutation(100)
    weights = jnp.asarray(weights[order][:, order], jnp.float32)
    value, gradient = value_and_grad(weights, method=method)
    assert float(value) == 0.0
    assert bool(jnp.all(jnp.isfinite(gradient)))


def cycle(length, weight):
    return jnp.asarray(weight * np.roll(np.eye(length), 1, axis=1), jnp.float32)


@pytest.mark.parametrize("length", [2, 3, 5, 10, 20])
def test_a_cycle_of_any_length_has_the_value_of_its_formula(length):
    # Among twenty nodes, so that one program serves every length.
    weights, nodes = np.zeros((20, 20), np.float32), 20
    weights[:length, :length] = cycle(length, 0.9)
    loop = float(np.float32(0.9)) ** (2 * length)
    rounds = [loop**k / math.factorial(k * length) for k in range(1, 6)]
    walks = [
        math.comb(nodes, k * length) * loop**k / nodes ** (k * length)
        for k in range(1, nodes // length + 1)
    ]
    exact = {
        "exponential": length * sum(rounds),
        "polynomial": length * sum(walks),
        "log_determinant": -math.log1p(-loop),
        "spectral": loop ** (1 / length),
    }
    for method, value in exact.items():
        np.testing.assert_allclose(compiled(weights, method=method), value, rtol=2e-5)


def test_a_small_value_is_not_lost_against_the_number_of_nodes():
    value, gradient = value_and_grad(cycle(2, 1e-3))
    np.testing.assert_allclose(value, 1e-12, rtol=1e-5)
    np.testing.assert_allclose(gradient[0, 1], 2e-9, rtol=1e-5)


def test_a_long_cycle_still_has_a_gradient_in_two_of_the_methods():
    weights = cycle(100, 0.9)
    for method in ("log_determinant", "spectral"):
        value, gradient = value_and_grad(weights, method=method)
        assert float(value) > 1e-10
        slope = oracle(weights, "log_determinant")[1]
        if method == "spectral":
            slope = np.asarray(2 * 0.9 / 100 * (np.asarray(weights) > 0))
        np.testing.assert_allclose(gradient, slope, rtol=5e-5, atol=1e-12)


def test_an_almost_nilpotent_graph_keeps_its_spectral_radius():
    # Rounded eigenvalues of such a matrix are off by the hundredth root of 1e-7.
    rng = np.random.default_rng(0)
    squares = np.triu(rng.random((100, 100)), 1)
    squares[50, 10] = 1e-12
    weights = np.sqrt(squares).astype(np.float32)
    exact = np.max(np.abs(np.linalg.eigvals(weights.astype(np.float64) ** 2)))
    ours = compiled(jnp.asarray(weights), method="spectral")
    np.testing.assert_allclose(ours, exact, rtol=1e-5)


@given(WEIGHTS, st.sampled_from(["exponential", "polynomial", "spectral"]))
def test_weights_to_1e15_give_finite_values_and_gradients(weights, method):
    value, gradient = value_and_grad(jnp.asarray(weights), method=method)
    assert 0.0 <= float(value) < np.inf
    assert bool(jnp.all(jnp.isfinite(gradient)))
    # No weight ever pulls away from zero: descent removes edges.
    assert np.all(np.sign(gradient) * np.sign(weights) >= 0.0)


@pytest.mark.parametrize("method", ["exponential", "polynomial", "spectral"])
def test_a_hundred_nodes_of_the_largest_weight_saturate(method):
    weights = jnp.full((100, 100), 3e38)
    value, gradient = value_and_grad(weights, method=method)
    assert 1e30 < float(value) < np.inf
    assert bool(jnp.all(jnp.isfinite(gradient) & (gradient > 0.0)))


@given(
    hnp.arrays(
        np.float32,
        (6, 6),
        elements=st.floats(-2.0, 2.0, width=32, allow_subnormal=False),
    ),
    st.sampled_from([0.25, 1.0, 9.0]),
)
def test_the_domain_is_where_the_spectral_radius_is_below_the_bound(weights, bound):
    radius = np.max(np.abs(np.linalg.eigvals(np.float64(weights) ** 2)))
    inside = bool(in_domain(jnp.asarray(weights), bound=bound))
    if abs(radius / bound - 1.0) > 1e-4:
        assert inside == (radius < bound)
    value, gradient = value_and_grad(
        jnp.asarray(weights), method="log_determinant", bound=bound
    )
    assert bool(jnp.isfinite(value)) == inside
    assert bool(jnp.all(jnp.isfinite(gradient)))


def test_a_positive_determinant_outside_the_domain_is_not_believed():
    weights = 2.0 * jnp.eye(4)
    sign, _ = np.linalg.slogdet(np.eye(4) - np.asarray(weights) ** 2)
    assert sign == 1.0
    assert not bool(in_domain(weights))
    value, gradient = value_and_grad(weights, method="log_determinant")
    assert float(value) == np.inf
    assert np.all(np.asarray(gradient) == 0.0)


def test_the_infinity_outside_can_be_selected_away():
    def barrier(weights):
        inside = in_acyclicity_domain(weights)
        value = acyclicity(weights, method="log_determinant")
        return jnp.where(inside, value, jnp.sum(weights**2))

    gradient = jax.jit(jax.grad(barrier))(2.0 * jnp.eye(3))
    np.testing.assert_array_equal(gradient, 4.0 * np.eye(3))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_stays_visible(method, bad):
    weights = jnp.zeros((3, 3)).at[0, 1].set(bad)
    np.testing.assert_equal(float(compiled(weights, method=method)), abs(bad))
    assert not bool(in_domain(weights))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_computed_in_float32(dtype, assert_ulps):
    weights = jnp.asarray(graph(10, 2.0, seed=0), dtype)
    for method in ("exponential", "polynomial", "spectral"):
        value, gradient = value_and_grad(weights, method=method)
        exact, slope = oracle(weights, method)
        assert (value.dtype, gradient.dtype) == (jnp.float32, dtype)
        np.testing.assert_allclose(value, exact, rtol=1e-5)
        assert_ulps(gradient, slope, 2)


@pytest.mark.parametrize("method", METHODS)
def test_it_maps_over_graphs_and_over_one_node(method):
    graphs = jnp.stack([jnp.asarray(graph(4, r, seed=1)) for r in (0.1, 0.5, 0.9)])
    function = functools.partial(acyclicity, method=method)
    mapped = jax.jit(jax.vmap(function))(graphs)
    np.testing.assert_allclose(
        mapped, [compiled(g, method=method) for g in graphs], rtol=1e-6
    )
    assert float(compiled(jnp.zeros((1, 1)), method=method)) == 0.0


def test_the_second_derivative_exists_taken_forward():
    hessian = jax.jit(jax.hessian(acyclicity))(cycle(2, 0.5))
    # 2 cosh(u v) - 2 with the two weights u and v.
    np.testing.assert_allclose(hessian[0, 1, 0, 1], 0.5 * np.cosh(0.25), rtol=1e-5)
    mixed = 2 * np.sinh(0.25) + 0.5 * np.cosh(0.25)
    np.testing.assert_allclose(hessian[0, 1, 1, 0], mixed, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_float64_weights_are_computed_in_float64(method):
    weights = graph(10, 0.8, seed=2).astype(np.float64)
    exact, slope = oracle(weights, method)
    with jax.enable_x64(True):
        value, gradient = value_and_grad(jnp.asarray(weights), method=method)
    assert (value.dtype, gradient.dtype) == (jnp.float64, jnp.float64)
    np.testing.assert_allclose(value, exact, rtol=1e-12)
    np.testing.assert_allclose(gradient, slope, rtol=1e-11, atol=1e-15)


def test_a_step_is_refused_outside_the_domain_and_made_inside():
    def loss(params, batch, key):
        return acyclicity(params, method="log_determinant"), {}

    train = make_train_step(loss, optax.sgd(0.1), guards=(GUARDS["skip_nonfinite"](),))
    for size, moves in ((0.5, True), (3.0, False)):
        weights = size * jnp.eye(2)
        state = train.init(jnp.copy(weights), None)
        state, _ = train.step(state, None, jax.random.key(0))
        assert bool(jnp.any(state.params != weights)) == moves


def test_wrong_options_are_refused():
    with pytest.raises(Exception, match="method"):
        acyclicity(jnp.eye(2), method="exponent")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="acyclicity: bound must be in"):
        acyclicity(jnp.eye(2), bound=0.0)
    with pytest.raises(ValueError, match="square matrix, got shape"):
        acyclicity(jnp.zeros((0, 0)))
