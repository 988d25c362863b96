"""Decompositions: the exact gradient away from equal values, a finite one at them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stabjax.numerics import safe_eigh, safe_svd

DEFAULT = float(np.finfo(np.float32).eps) ** 0.5
EYE = jnp.eye(3)
RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(5, 5))


def rotation(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(n, n)))[0]


def symmetric(values, seed=0):
    """Return the symmetric matrix of the given eigenvalues, in float64."""
    turn = rotation(len(values), seed)
    return (turn * np.asarray(values)) @ turn.T


def with_values(values, rows, columns):
    """Return the matrix of the given singular values, in float64."""
    k = len(values)
    return (rotation(rows)[:, :k] * np.asarray(values)) @ rotation(columns, 1)[:k]


def difference(function, a, step=1e-6):
    """Return the gradient by central differences in float64."""
    gradient = np.zeros_like(a)
    for place in np.ndindex(a.shape):
        move = np.zeros_like(a)
        move[place] = step
        gradient[place] = (function(a + move) - function(a - move)) / (2 * step)
    return gradient


def _eigh(a):
    return np.linalg.eigh((a + a.T) / 2)


def _weigh(a):
    return np.sum(a * WEIGHTS[: a.shape[0], : a.shape[1]])


# Functions that change neither with a sign nor with the basis of equal values, by JAX
# or numpy; in the first two vectors they see a whole group.
def eigen_matrix_function(a, decompose, np=jnp):
    w, v = decompose(a)
    return v @ np.diag(np.tanh(w)) @ v.conj().T


def eigen_subspace(a, decompose, np=jnp):
    v = decompose(a)[1][:, :2]
    return v @ v.T


def singular_function(a, decompose, np=jnp):
    u, s, vh = decompose(a)
    return u @ np.diag(np.tanh(s)) @ vh


def singular_subspaces(a, decompose, np=jnp):
    u, s, vh = decompose(a)
    return np.sum(s) * u[:, :2] @ vh[:2]


def polar(a, decompose, np=jnp):
    u, _, vh = decompose(a)
    return u @ vh


EIGEN = [eigen_matrix_function, eigen_subspace]
SINGULAR = [singular_function, singular_subspaces, polar]
thin = functools.partial(np.linalg.svd, full_matrices=False)
jax_thin = functools.partial(jnp.linalg.svd, full_matrices=False)


def exactly(function, a, decompose):
    """Return the gradient of the weighed function in float64."""
    return difference(lambda a: _weigh(function(a, decompose, np)), a)


def gradient(function, a, decompose):
    weights = jnp.asarray(WEIGHTS[: a.shape[0], : a.shape[1]], jnp.float32)
    loss = lambda a: jnp.sum(function(a, decompose) * weights)
    return np.asarray(jax.jit(jax.grad(loss))(jnp.asarray(a, jnp.float32)))


@pytest.mark.parametrize("function", EIGEN)
def test_eigh_has_the_gradient_of_jax_and_of_float64_at_distinct_values(function):
    a = symmetric([-1.0, -0.6, 0.3, 1.1, 1.5])
    ours = gradient(function, a, safe_eigh)
    scale = np.abs(exactly(function, a, _eigh)).max()
    np.testing.assert_allclose(
        ours, exactly(function, a, _eigh), atol=3e-6 * scale, rtol=0
    )
    np.testing.assert_allclose(
        ours, gradient(function, a, jnp.linalg.eigh), atol=3e-6 * scale, rtol=0
    )


@pytest.mark.parametrize("shape", [(5, 5), (5, 3), (3, 5)])
@pytest.mark.parametrize("function", SINGULAR)
def test_svd_has_the_gradient_of_jax_and_of_float64_at_distinct_values(function, shape):
    a = with_values([2.0, 1.6, 1.1, 0.7, 0.3][: min(shape)], *shape)
    exact = exactly(function, a, thin)
    ours, scale = gradient(function, a, safe_svd), np.abs(exact).max()
    np.testing.assert_allclose(ours, exact, atol=5e-6 * scale, rtol=0)
    theirs = gradient(function, a, jax_thin)
    np.testing.assert_allclose(ours, theirs, atol=5e-6 * scale, rtol=0)


@pytest.mark.parametrize("gap", [0.3, 0.1, 0.03, 0.01, 0.003, 0.001])
def test_the_error_at_a_gap_is_the_fourth_power_that_is_stated(gap):
    with jax.enable_x64(True):
        a = jnp.diag(jnp.asarray([1.0 - gap, 1.0], jnp.float64))
        b = 0.01
        turn = jnp.asarray([[0.0, 1.0], [1.0, 0.0]], jnp.float64)
        decompose = functools.partial(safe_eigh, broadening=b)
        moved = jax.jvp(lambda a: decompose(a).eigenvectors, (a,), (turn,))[1]
        exact = jax.jvp(lambda a: jnp.linalg.eigh(a)[1], (a,), (turn,))[1]
        error = np.abs(moved / exact - 1)[np.abs(exact) > 1e-9]
        left = jax.jvp(
            lambda a: safe_svd(a, broadening=b).U,
            (a[::-1, ::-1],),
            (turn,),
        )[1]
    np.testing.assert_allclose(error, (b / gap) ** 4 / (1 + (b / gap) ** 4), rtol=1e-6)
    assert np.abs(moved).max() <= 0.57 / b
    # The symmetric change turns both sides by the half of 2 r(d).
    np.testing.assert_allclose(np.abs(left).max(), np.abs(moved).max(), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
@pytest.mark.parametrize(
    "matrix",
    [
        np.eye(3),
        np.zeros((3, 3)),
        np.ones((3, 3)),
        np.diag([1.0, 1.0, 0.0]),
        np.diag([2.0, -2.0, 1.0]),
        np.diag([1.0, 1.0 + 1e-3, 1.0]),
        300.0 * np.eye(3),
    ],
)
def test_every_gradient_is_finite_at_equal_and_at_zero_values(matrix, decompose, dtype):
    a = jnp.asarray(matrix, dtype)
    outputs, pull = jax.vjp(lambda a: tuple(decompose(a)), a)
    assert {out.dtype for out in outputs} == {jnp.dtype(jnp.float32)}
    rng = np.random.default_rng(3)
    cotangents = [jnp.asarray(rng.normal(size=x.shape), x.dtype) for x in outputs]
    with jax.debug_nans(True):
        (slope,) = jax.jit(pull)(tuple(cotangents))
    assert slope.dtype == dtype
    assert np.all(np.isfinite(slope))
    # By the largest gradient that is stated: 0.57 over the broadening.
    size = max(float(np.abs(np.asarray(a, np.float64)).max()), 1e-28)
    assert np.abs(np.asarray(slope, np.float64)).max() < 100 * 0.57 / DEFAULT / size


@pytest.mark.parametrize("shape", [(4, 2), (2, 4)])
@pytest.mark.parametrize("level", [0.0, 1.0])
def test_a_matrix_of_low_rank_that_is_not_square_has_a_finite_gradient(level, shape):
    a = jnp.full(shape, level)

    def slope(decompose):
        outputs, pull = jax.vjp(lambda a: tuple(decompose(a)), a)
        return pull(jax.tree.map(jnp.ones_like, outputs))[0]

    assert np.all(np.isfinite(slope(safe_svd)))
    assert level or not np.all(np.isfinite(slope(jax_thin)))


@pytest.mark.parametrize("size", [0.0, 1e-38, 1e-37, 1e-30, 1e-20, 1e20, 3e38])
@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
def test_it_is_finite_and_right_at_any_size(decompose, size):
    # The gap of twice the broadening has nearly the largest reciprocal.
    a = np.float32(symmetric([1.0, 2.0, 2.0 + 4 * DEFAULT]) * (size / 2))
    outputs, pull = jax.vjp(lambda a: tuple(decompose(a)), jnp.asarray(a))
    slope = pull(jax.tree.map(jnp.ones_like, outputs))[0]
    assert np.all(np.isfinite(slope))
    values = outputs[0] if decompose is safe_eigh else outputs[1][::-1]
    exact = np.linalg.eigvalsh(a.astype(np.float64))
    np.testing.assert_allclose(values, exact, rtol=1e-5, atol=2e-38)


@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
def test_a_value_past_float32_saturates(decompose):
    a = jnp.full((3, 3), 3e38)
    outputs, pull = jax.vjp(lambda a: tuple(decompose(a)), a)
    assert all(np.all(np.isfinite(x)) for x in outputs)
    assert float(max(jnp.max(x) for x in outputs)) == np.finfo(np.float32).max
    assert np.all(np.isfinite(pull(jax.tree.map(jnp.ones_like, outputs))[0]))


def test_the_plain_forms_are_nan_there():
    for function, decompose in (
        (eigen_matrix_function, jnp.linalg.eigh),
        (singular_function, jax_thin),
    ):
        assert np.isnan(gradient(function, np.eye(3), decompose)).any()


def test_the_subspace_of_a_whole_group_keeps_its_gradient_at_equality():
    a = symmetric([1.0, 1.0, 3.0, 4.0, 5.5])
    exact = exactly(eigen_subspace, a, _eigh)
    ours = gradient(eigen_subspace, a, safe_eigh)
    np.testing.assert_allclose(ours, exact, atol=2e-5 * np.abs(exact).max(), rtol=0)
    a = with_values([3.0, 3.0, 1.0], 5, 3)
    exact = exactly(singular_subspaces, a, thin)
    ours = gradient(singular_subspaces, a, safe_svd)
    np.testing.assert_allclose(ours, exact, atol=2e-5 * np.abs(exact).max(), rtol=0)


def test_a_function_of_the_values_alone_keeps_its_gradient_at_equality():
    a = symmetric([0.7, 0.7, 0.7, -0.2, 1.0])
    ours = jax.grad(lambda a: jnp.sum(safe_eigh(a).eigenvalues ** 3))(jnp.float32(a))
    np.testing.assert_allclose(ours, 3 * a @ a, atol=3e-6)
    a = with_values([1.5, 1.5, 1.5], 3, 5)
    ours = jax.grad(lambda a: jnp.sum(safe_svd(a).S ** 4))(jnp.float32(a))
    np.testing.assert_allclose(ours, 4 * a @ a.T @ a, atol=5e-5)
    nuclear = jax.grad(lambda a: jnp.sum(safe_svd(a).S))(jnp.zeros((2, 3)))
    assert np.all(np.isfinite(nuclear))


def test_the_polar_factor_keeps_its_gradient_at_equality():
    a = 2.0 * rotation(4)
    exact = exactly(polar, a, thin)
    ours = gradient(polar, a, safe_svd)
    np.testing.assert_allclose(ours, exact, atol=1e-5 * np.abs(exact).max(), rtol=0)


def test_at_the_identity_a_matrix_function_keeps_what_is_stated_and_no_more():
    weights = WEIGHTS[:3, :3]
    slope, value = 1 - np.tanh(1.0) ** 2, np.tanh(1.0)
    kept = np.diag(np.diag(weights)) * slope
    ours = gradient(eigen_matrix_function, np.eye(3), safe_eigh)
    np.testing.assert_allclose(ours, kept, atol=1e-6)
    kept += (weights - weights.T) / 2 * value
    ours = gradient(singular_function, np.eye(3), safe_svd)
    np.testing.assert_allclose(ours, kept, atol=1e-6)
    # The exact one has the symmetric part beside the diagonal as well.
    exact = exactly(singular_function, np.eye(3), thin)
    symmetric_part = (weights + weights.T) / 2
    lost = (symmetric_part - np.diag(np.diag(weights))) * slope
    np.testing.assert_allclose(exact - ours, lost, atol=1e-6)


@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
def test_values_and_vectors_are_those_of_jax(decompose):
    plain = jnp.linalg.eigh if decompose is safe_eigh else jax_thin
    a = jnp.asarray(symmetric([1.0, 2.0, 3.5]), jnp.float32)
    ours, theirs = decompose(a), plain(a)
    assert ours._fields == theirs._fields
    for mine, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.abs(mine), np.abs(other), atol=2e-6)


@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
def test_a_matrix_in_a_batch_is_its_own(decompose):
    batch = [symmetric([1.0, 1.0, 2.0], n) * 10.0 ** (n - 3) for n in range(6)]
    batch = jnp.asarray([*batch, np.full((3, 3), np.nan)], jnp.float32)

    def loss(a):
        first, second, *_ = decompose(a)
        return jnp.sum(first) + jnp.sum(jnp.square(second[..., :1]))

    one, together = jax.grad(loss), jax.grad(loss)(batch)
    assert np.isnan(together[-1]).all()
    for alone, row in zip(batch[:-1], together[:-1], strict=True):
        np.testing.assert_allclose(row, one(alone), rtol=1e-5, atol=1e-9)
    mapped = jax.vmap(one)(batch)
    np.testing.assert_allclose(mapped[:-1], together[:-1], rtol=1e-5, atol=1e-9)


def test_complex_matrices_have_the_gradient_of_jax():
    rng = np.random.default_rng(5)
    a, g = (rng.normal(size=(2, 3, 3)) for _ in range(2))
    a, g = (jnp.asarray(x[0] + 1j * x[1], jnp.complex64) for x in (a, g))
    for function, ours, plain in (
        (eigen_matrix_function, safe_eigh, jnp.linalg.eigh),
        (singular_function, safe_svd, jax_thin),
        (polar, safe_svd, jax_thin),
    ):
        loss = lambda a, how, of=function: jnp.sum((of(a, how) * g).real)
        expected = jax.grad(loss)(a, plain)
        np.testing.assert_allclose(jax.grad(loss)(a, ours), expected, atol=2e-5)
        assert np.all(np.isfinite(jax.grad(loss)(jnp.eye(3, dtype=a.dtype), ours)))


@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
def test_the_second_derivative_is_finite_at_the_identity_and_right_away_from_it(
    decompose,
):
    function = eigen_matrix_function if decompose is safe_eigh else singular_function
    plain = jnp.linalg.eigh if decompose is safe_eigh else jax_thin
    loss = lambda a, how: jnp.sum(
        function(a, how) * jnp.asarray(WEIGHTS[:3, :3], a.dtype)
    )
    assert np.all(np.isfinite(jax.hessian(loss)(EYE, decompose)))
    a = jnp.asarray(symmetric([0.5, 1.0, 2.0]), jnp.float32)
    ours, theirs = (jax.hessian(loss)(a, how) for how in (decompose, plain))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
def test_float64_is_kept_with_its_own_broadening(decompose):
    with jax.enable_x64(True):
        a = jnp.asarray(symmetric([1.0, 1.0 + 1e-4, 2.0]), jnp.float64)
        function = (
            eigen_matrix_function if decompose is safe_eigh else singular_function
        )
        plain = jnp.linalg.eigh if decompose is safe_eigh else jax_thin
        weights = jnp.asarray(WEIGHTS[:3, :3])
        loss = lambda a, how: jnp.sum(function(a, how) * weights)
        ours, theirs = (jax.grad(loss)(a, how) for how in (decompose, plain))
        assert ours.dtype == jnp.float64
        np.testing.assert_allclose(ours, theirs, atol=1e-10)
        huge = decompose(jnp.eye(2, dtype=jnp.float64) * 1e300)
        assert all(bool(jnp.all(jnp.isfinite(x))) for x in huge)


@pytest.mark.parametrize("bad", [0.0, -1.0, 1e-10, 2.0, np.nan])
@pytest.mark.parametrize("decompose", [safe_eigh, safe_svd])
def test_a_broadening_out_of_range_is_refused(decompose, bad):
    with pytest.raises(
        ValueError, match=f"{decompose.__name__}: broadening must be in"
    ):
        decompose(EYE, broadening=bad)


@pytest.mark.parametrize("shape", [(0, 0), (2, 0, 0)])
def test_an_empty_matrix_has_no_values(shape):
    assert safe_eigh(jnp.zeros(shape)).eigenvalues.shape == shape[:-1]
    assert safe_svd(jnp.zeros(shape)).S.shape == shape[:-1]
