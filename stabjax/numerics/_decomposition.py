"""Eigen- and singular vectors with a finite gradient at equal and at zero values."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Inexact

from stabjax.numerics._check import check_range
from stabjax.numerics._precision import saturate, widen


class Eigh(NamedTuple):
    """Eigenvalues and eigenvectors, as `jax.numpy.linalg.eigh` names them.

    Attributes:
        eigenvalues: Real, in ascending order.
        eigenvectors: One in each column.
    """

    eigenvalues: Float[Array, "*batch n"]
    eigenvectors: Inexact[Array, "*batch n n"]


class Svd(NamedTuple):
    """The factors, as `jax.numpy.linalg.svd` names them.

    Attributes:
        U: Left singular vectors, one in each column.
        S: Singular values, in descending order.
        Vh: Right singular vectors, conjugated, one in each row.
    """

    U: Inexact[Array, "*batch m k"]
    S: Float[Array, "*batch k"]
    Vh: Inexact[Array, "*batch k n"]


def _adjoint(x: Array) -> Array:
    return jnp.swapaxes(x, -1, -2).conj()


def _product(*factors: Array) -> Array:
    multiply = functools.partial(jnp.matmul, precision="highest")
    return functools.reduce(multiply, factors)


def _diagonal(x: Array) -> Array:
    return jnp.diagonal(x, axis1=-2, axis2=-1).real


def _relative(values: Array) -> tuple[Array, Array]:
    """Return ``values`` over the largest of each row, and the factor that did it.

    The factor has no gradient: where the reciprocal is exact it drops out. The limits
    keep it normal, and the gradient of a tiny matrix finite.
    """
    tiny = float(jnp.finfo(values.dtype).tiny)
    size = jnp.max(jnp.abs(values), axis=-1, keepdims=True, initial=0.0)
    factor = 1 / jax.lax.stop_gradient(jnp.clip(size, tiny * 1e10, 1 / tiny))
    return values * factor, factor


def _reciprocal(x: Array, broadening: float) -> Array:
    """Return ``x**3 / (x**4 + broadening**4)``: 1/x far off zero, zero at zero."""
    x = x * (1 / broadening)
    return (x * x * x) / (1 + x * x * x * x) * (1 / broadening)


def _pairs(values: Array, sign: int) -> Array:
    """Return ``values[j] + sign * values[i]`` at row i and column j."""
    return values[..., None, :] + sign * values[..., :, None]


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _eigh(a: Array, broadening: float) -> tuple[Array, Array]:
    values, vectors = jnp.linalg.eigh(a, symmetrize_input=False)
    return saturate(values, values.dtype), vectors


@_eigh.defjvp
def _eigh_jvp(broadening: float, primals: tuple, tangents: tuple) -> tuple:
    values, vectors = _eigh(*primals, broadening)
    inner = _product(_adjoint(vectors), tangents[0], vectors)
    relative, factor = _relative(values)
    turn = _reciprocal(_pairs(relative, -1), broadening) * factor[..., None]
    turned = _product(vectors, turn.astype(inner.dtype) * inner)
    return (values, vectors), (_diagonal(inner), turned)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _svd(a: Array, broadening: float) -> tuple[Array, Array, Array]:
    left, values, right = jnp.linalg.svd(a, full_matrices=False)
    return left, saturate(values, values.dtype), right


@_svd.defjvp
def _svd_jvp(broadening: float, primals: tuple, tangents: tuple) -> tuple:
    # The turns A = U^H dU and B = V^H dV of the vectors solve
    # U^H da V = A S - S B + dS, whose Hermitian part holds A + B over s_j - s_i and
    # whose other part holds A - B over s_j + s_i. Only the first has a pole where
    # values are equal, so the second stays exact there.
    left, values, right = _svd(*primals, broadening)
    inner = _product(_adjoint(left), tangents[0], _adjoint(right))
    relative, factor = _relative(values)

    def over(x: Array) -> Array:
        return (_reciprocal(x, broadening) * factor[..., None]).astype(inner.dtype)

    even = (inner + _adjoint(inner)) * over(_pairs(relative, -1)) / 2
    odd = (inner - _adjoint(inner)) * over(_pairs(relative, 1)) / 2
    turned_left = _product(left, even + odd)
    turned_right = _product(_adjoint(right), even - odd)
    rows, columns = primals[0].shape[-2:]
    outside = over(relative[..., None, :])
    if rows > columns:
        moved = _product(tangents[0], _adjoint(right))
        moved -= _product(left, _adjoint(left), moved)
        turned_left += moved * outside
    if columns > rows:
        moved = _product(_adjoint(tangents[0]), left)
        moved -= _product(_adjoint(right), right, moved)
        turned_right += moved * outside
    tangent = (turned_left, _diagonal(inner), _adjoint(turned_right))
    return (left, values, right), tangent


def _broadening(function: str, broadening: float | None, a: Array) -> float:
    if broadening is None:
        return float(jnp.finfo(widen(a).dtype).eps) ** 0.5
    check_range(function, "broadening", broadening, low=1e-9, high=1.0)
    return broadening


def safe_eigh(
    a: Inexact[Array, "*batch n n"], *, broadening: float | None = None
) -> Eigh:
    """Decompose a symmetric matrix, with a finite gradient at equal eigenvalues.

    ``(a + a^H) / 2 = V diag(w) V^H``, as `jax.numpy.linalg.eigh`; only the gradient
    differs.

    Args:
        a: Symmetric, or Hermitian, matrices of any unit; what is not is made so.
        broadening: Gap between eigenvalues, over the largest |eigenvalue| of the
            matrix, below which the turning of their vectors fades, [1e-9, 1]. By
            default the root of the machine epsilon: 3.5e-4, for float64 1.5e-8.

    Returns:
        Eigenvalues in the unit of ``a``, in ascending order, and dimensionless
        eigenvectors in the columns. Half precision gives float32.

    Raises:
        ValueError: If ``broadening`` is outside its range.

    Gradient:
        With ``P = V^H da V``: ``dw_i = P_ii``, exact, and ``dV = V (F * P)`` with
        ``F_ij = d**3 / (d**4 + b**4)`` in place of ``1 / d``; ``d = w_j - w_i`` and
        ``b = broadening * max|w|``. At a gap ``d`` that is ``1/d`` with a relative
        error below ``(b/d)**4`` (1.4e-6 at 1% of the largest eigenvalue, 1.4e-10 at
        10%), never above ``0.57 / b`` (1650 over the largest eigenvalue), and zero at
        equal eigenvalues.

        Only a function that does not change with the sign of a vector, nor when the
        vectors of equal eigenvalues turn among themselves, has a gradient at all.
        Of such functions those of ``w`` alone, and those of the subspace of a whole
        group of equal eigenvalues, keep theirs. A matrix function ``V f(w) V^H``
        keeps it away from equality, but within a group of equal eigenvalues loses
        the part beside the diagonal: ``f'`` is not to be had from ``f`` there.
        For matrices below 1e-28 the turning fades, so that it stays finite.

    Source:
        Giles (2008), Oxford NA-08/01, with a broadened reciprocal as in Liao et al.
        (2019), Phys. Rev. X 9, 031041, of fourth in place of second order.

    Example:
        >>> w, V = safe_eigh(jnp.eye(2))
        >>> jax.grad(lambda a: jnp.sum(safe_eigh(a).eigenvectors[:, 0]))(jnp.eye(2))
        Array([[0., 0.],
               [0., 0.]], dtype=float32)
    """
    broadening = _broadening("safe_eigh", broadening, a)
    half = widen(a) * 0.5
    return Eigh(*_eigh(half + _adjoint(half), broadening))


def safe_svd(
    a: Inexact[Array, "*batch m n"], *, broadening: float | None = None
) -> Svd:
    """Decompose a matrix, with a finite gradient at equal and zero singular values.

    ``a = U diag(S) Vh`` with k = min(m, n) singular values, as
    `jax.numpy.linalg.svd` with ``full_matrices=False``; only the gradient differs.

    Args:
        a: Matrices of any unit.
        broadening: Distance between singular values, or of one to zero, over the
            largest of the matrix, below which the turning of the vectors fades,
            [1e-9, 1]. By default the root of the machine epsilon: 3.5e-4, for
            float64 1.5e-8.

    Returns:
        Singular values in the unit of ``a``, in descending order, between the
        dimensionless left and right vectors. Half precision gives float32.

    Raises:
        ValueError: If ``broadening`` is outside its range.

    Gradient:
        With ``P = U^H da V``: ``dS_i = P_ii``, exact (a singular value of zero takes
        one side of its kink). ``U^H dU`` and ``V^H dV`` are half the sum and half the
        difference of ``(P + P^H) r(s_j - s_i)`` and ``(P - P^H) r(s_j + s_i)``, and
        what lies outside of the k vectors turns with ``r(s_i)``. Here
        ``r(d) = d**3 / (d**4 + b**4)`` stands in place of ``1 / d``, with
        ``b = broadening * max(s)``: a relative error below ``(b/d)**4`` (1.4e-6 where
        d is 1% of the largest singular value, 1.4e-10 at 10%), never above
        ``0.57 / b``, and zero at zero.

        Only a function that does not change when a pair of vectors changes sign, nor
        when the vectors of equal singular values turn together, has a gradient at
        all. Of such functions those of ``S`` alone, those of the spaces of a whole
        group of equal values, and ``U Vh`` keep theirs. ``U f(S) Vh`` keeps it away
        from equality, but within a group of equal values loses the symmetric part
        beside the diagonal: ``f'`` is not to be had from ``f`` there.
        For matrices below 1e-28 the turning fades, so that it stays finite.

    Source:
        Giles (2008), Oxford NA-08/01, split so that one part only has the pole; the
        reciprocal is broadened as in Liao et al. (2019), Phys. Rev. X 9, 031041, of
        fourth in place of second order.

    Example:
        >>> U, S, Vh = safe_svd(jnp.eye(2))
        >>> jax.grad(lambda a: jnp.sum(safe_svd(a).U @ safe_svd(a).Vh))(jnp.eye(2))
        Array([[0., 0.],
               [0., 0.]], dtype=float32)
    """
    return Svd(*_svd(widen(a), _broadening("safe_svd", broadening, a)))
