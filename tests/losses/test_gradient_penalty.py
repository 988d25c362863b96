"""Penalties on slopes: values by hand, and the second backward pass at zero."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from stabjax.losses import gradient_penalty, r1_penalty

LARGEST = float(np.float32(1e18))
SLOPES = hnp.arrays(
    np.float32,
    3,
    elements=st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False),
)


def examples(shape=(8, 3), seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2)]


def network(params, x):
    """Score each example by two layers; flat everywhere while ``out`` is zero."""
    return jnp.tanh(x @ params["inner"]) @ params["out"]


def parameters(out=1.0):
    inner = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)
    return {"inner": inner, "out": out * jnp.linspace(-1.0, 1.0, 4)}


def penalize(critic, real, fake, **options):
    return gradient_penalty(critic, real, fake, jax.random.key(0), **options)


def naive_penalty(critic, points):
    slopes = jax.grad(lambda x: jnp.sum(critic(x)))(points)
    return jnp.mean((jnp.sqrt(jnp.sum(slopes**2, axis=1)) - 1.0) ** 2)


def of_parameters(penalty, *args, **options):
    return lambda p: penalty(functools.partial(network, p), *args, **options)


@functools.partial(jax.jit, static_argnames=("target", "one_sided"))
def of_a_linear_critic(weights, **options):
    real, fake = examples()
    loss = lambda w: penalize(lambda x: x @ w, real, fake, **options)
    return jax.value_and_grad(loss)(weights)


@given(SLOPES, st.sampled_from([0.0, 1.0, 10.0]), st.booleans())
def test_a_linear_critic_is_penalized_by_its_slope(slope, target, one_sided):
    value, gradient = of_a_linear_critic(
        jnp.asarray(slope), target=target, one_sided=one_sided
    )
    size = np.linalg.norm(np.float64(slope))
    excess = max(size - target, 0.0) if one_sided else size - target
    # The floor of 1e-6 adds at most itself to the norm.
    np.testing.assert_allclose(value, excess**2, rtol=1e-5, atol=3e-5)
    assert bool(jnp.all(jnp.isfinite(gradient)))
    if size > 1e-2 and not (one_sided and abs(excess) < 1e-3):
        exact = 2 * excess * np.float64(slope) / size
        np.testing.assert_allclose(
            gradient, exact, rtol=1e-4, atol=1e-4 * (np.abs(exact).max() + 1e-30)
        )


def test_the_parameter_gradient_is_that_of_finite_differences():
    real, fake = examples()
    loss = jax.jit(of_parameters(penalize, real, fake))
    params = parameters()
    gradient = jax.grad(loss)(params)["inner"]
    direction = jax.random.normal(jax.random.key(1), gradient.shape)
    moved = [params | {"inner": params["inner"] + h * direction} for h in (5e-3, -5e-3)]
    numeric = (loss(moved[0]) - loss(moved[1])) / 1e-2
    np.testing.assert_allclose(jnp.sum(gradient * direction), numeric, rtol=1e-2)


def test_a_flat_critic_has_a_finite_second_pass_where_the_naive_form_has_none():
    real, fake = examples()
    params = parameters(out=0.0)
    naive = jax.grad(lambda p: naive_penalty(functools.partial(network, p), real))
    assert bool(jnp.any(jnp.isnan(naive(params)["out"])))
    loss = of_parameters(penalize, real, fake)
    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    np.testing.assert_allclose(value, 1.0, rtol=1e-5)
    assert all(np.all(np.asarray(g) == 0.0) for g in jax.tree.leaves(gradient))


def test_its_second_derivative_is_finite_at_a_slope_of_zero():
    real, fake = examples()

    def loss(w):
        return penalize(lambda x: x @ w, real, fake, floor=1e-3)

    hessian = jax.jit(jax.hessian(loss))(jnp.zeros(3))
    # d2/dw2 of (sqrt(w**2 + f**2) - 1)**2 at zero is -2 (1 - f) / f.
    np.testing.assert_allclose(hessian, -2 * 0.999 / 1e-3 * np.eye(3), rtol=1e-4)


def test_training_leaves_a_flat_start_once_another_loss_moves_it():
    real, fake = examples()

    def loss(p):
        score = jnp.mean(network(p, fake)) - jnp.mean(network(p, real))
        critic = functools.partial(network, p)
        return score + 10.0 * penalize(critic, real, fake)

    step = jax.jit(
        lambda p: jax.tree.map(lambda x, g: x - 0.02 * g, p, jax.grad(loss)(p))
    )
    params = parameters(out=0.0)
    for _ in range(300):
        params = step(params)
    penalty = of_parameters(penalize, real, fake)(params)
    assert float(penalty) < 0.5


def squares_at_the_points(entry):
    """Return the square of one entry of each point, read off the penalty."""
    real, fake = jnp.ones((50, 2, 2)), -jnp.ones((50, 2, 2))

    def penalty(scales):
        critic = lambda x: scales * x[:, *entry] ** 2 / 2
        return penalize(critic, real, fake, target=0.0)

    return np.asarray(50 / 2 * jax.jit(jax.grad(penalty))(jnp.ones(50)))


def test_points_lie_between_the_pairs_and_each_pair_has_its_own():
    squares = squares_at_the_points((0, 0))
    assert np.all((squares >= 0.0) & (squares <= 1.0))
    assert len(np.unique(squares)) == 50
    np.testing.assert_array_equal(squares, squares_at_the_points((1, 1)))


def cloud_critic(x):
    return jnp.sum(jnp.sin(x), axis=(1, 2))


def test_particles_that_do_not_count_are_inert_whatever_they_hold():
    real, fake = examples((4, 5, 3))
    mask = jnp.arange(5)[None, :] < jnp.array([5, 3, 1, 0])[:, None]
    holes = jnp.where(mask[:, :, None], real, jnp.nan)
    compiled = jax.jit(functools.partial(penalize, cloud_critic))
    value = compiled(holes, fake, mask=mask)
    part = jax.random.uniform(jax.random.key(0), (4, 1, 1))
    points = np.float64(part * real + (1 - part) * fake)
    squares = np.sum(np.cos(points) ** 2 * np.asarray(mask)[:, :, None], (1, 2))[:3]
    np.testing.assert_allclose(value, np.mean((np.sqrt(squares) - 1) ** 2), rtol=1e-5)
    flat = jax.jit(functools.partial(r1_penalty, cloud_critic))(holes, mask=mask)
    squares = np.sum(np.cos(real) ** 2 * np.asarray(mask)[:, :, None], (1, 2))[:3]
    np.testing.assert_allclose(flat, 0.5 * np.mean(squares), rtol=1e-5)


def test_a_batch_of_empty_clouds_gives_zero_with_a_zero_gradient():
    real, fake = examples((4, 5, 3))
    none = jnp.zeros((4, 5), jnp.bool_)

    def loss(scale):
        critic = lambda x: scale * cloud_critic(x)
        return penalize(critic, real, fake, mask=none) + r1_penalty(
            critic, real, mask=none
        )

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.float32(2.0))
    assert (float(value), float(gradient)) == (0.0, 0.0)


def test_the_examples_receive_no_gradient():
    real, fake = examples()
    critic = functools.partial(network, parameters())
    both = lambda r, f: penalize(critic, r, f) + r1_penalty(critic, r)
    for gradient in jax.jit(jax.grad(both, argnums=(0, 1)))(real, fake):
        assert np.all(np.asarray(gradient) == 0.0)


def test_r1_is_half_the_mean_squared_slope():
    real, _ = examples()
    loss = of_parameters(r1_penalty, real)
    params = parameters()
    slopes = jax.vmap(jax.grad(lambda x: network(params, x[None])[0]))(real)
    exact = 0.5 * np.mean(np.sum(np.float64(slopes) ** 2, 1))
    np.testing.assert_allclose(jax.jit(loss)(params), exact, rtol=1e-5)
    flat = jax.grad(loss)(parameters(out=0.0))
    assert all(np.all(np.asarray(g) == 0.0) for g in jax.tree.leaves(flat))


def test_a_slope_that_is_nan_stays_visible():
    real, fake = examples()
    critic = lambda x: jnp.sum(x, 1) * jnp.nan
    assert np.isnan(float(penalize(critic, real, fake)))
    assert np.isnan(float(r1_penalty(critic, real)))


def test_half_precision_slopes_are_squared_in_float32():
    real, fake = (x.astype(jnp.bfloat16) for x in examples())
    critic = lambda x: jnp.sum(jnp.bfloat16(1e20) * x, 1) * jnp.bfloat16(1e-3)
    value = penalize(critic, real, fake)
    slope = 3**0.5 * float(jnp.bfloat16(1e20) * jnp.bfloat16(1e-3))
    np.testing.assert_allclose(value, slope**2, rtol=1e-5)
    assert value.dtype == jnp.float32


def test_it_maps_over_critics():
    real, fake = examples()
    critics = jnp.eye(3) * 2.0
    of_weights = lambda w: penalize(lambda x: x @ w, real, fake)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(of_weights))(critics), jnp.ones(3), rtol=1e-5
    )


def test_wrong_options_are_refused():
    real, fake = examples()
    critic = lambda x: x[:, 0]
    with pytest.raises(ValueError, match="gradient_penalty: floor must be in"):
        penalize(critic, real, fake, floor=0.0)
    with pytest.raises(ValueError, match="gradient_penalty: target must be in"):
        penalize(critic, real, fake, target=-1.0)
    with pytest.raises(ValueError, match=r"critic must return shape \(8,\)"):
        penalize(lambda x: x, real, fake)
    with pytest.raises(
        ValueError, match="gradient_penalty: mask must have leading axes"
    ):
        penalize(critic, real, fake, mask=jnp.ones(7, jnp.bool_))
    with pytest.raises(ValueError, match="r1_penalty: mask must have leading axes"):
        r1_penalty(critic, real, mask=jnp.ones((8, 2), jnp.bool_))
