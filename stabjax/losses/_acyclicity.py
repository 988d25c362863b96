"""How far a weighted graph is from having no directed cycle."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.losses._nonnegative import (
    closure,
    exp_minus_one,
    join,
    power_minus_one,
    spectral_radius,
)
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import saturate, widen

Method = Literal["exponential", "polynomial", "log_determinant", "spectral"]

# Squares of larger weights, or sums of a hundred of them, would leave float32.
_LARGEST_WEIGHT = 1e15


def _exponential(squares: Array, bound: float) -> tuple[Array, Array]:
    del bound
    cycles = exp_minus_one(squares)
    return jnp.trace(cycles), cycles.T + jnp.eye(squares.shape[0], dtype=squares.dtype)


def _polynomial(squares: Array, bound: float) -> tuple[Array, Array]:
    del bound
    nodes = squares.shape[0]
    share = squares / nodes
    # One factor is kept apart: without it the power is the derivative.
    slope = power_minus_one(share, nodes - 1)
    value = jnp.trace(join(slope, share))
    return value, slope.T + jnp.eye(nodes, dtype=squares.dtype)


def _log_determinant(squares: Array, bound: float) -> tuple[Array, Array]:
    walks, loops = closure(squares / bound)
    inside = jnp.all(loops < 1.0)
    value = -jnp.sum(jnp.log1p(-jnp.where(inside, loops, 0.0)))
    slope = (walks.T + jnp.eye(squares.shape[0], dtype=squares.dtype)) / bound
    return jnp.where(inside, value, jnp.inf), jnp.where(inside, slope, 0.0)


def _spectral(squares: Array, bound: float) -> tuple[Array, Array]:
    del bound
    return spectral_radius(squares)


_METHODS = {
    "exponential": _exponential,
    "polynomial": _polynomial,
    "log_determinant": _log_determinant,
    "spectral": _spectral,
}


def _limited(weights: Array) -> Array:
    wide = widen(weights)
    limited = jnp.clip(wide, -_LARGEST_WEIGHT, _LARGEST_WEIGHT)
    return jnp.where(jnp.isfinite(wide), limited, 0.0)


def _value_and_slope(
    weights: Array, method: Method, bound: float
) -> tuple[Array, Array]:
    limited = _limited(weights)
    value, slope = _METHODS[method](limited * limited, bound)
    wide = widen(weights)
    # NaN stays NaN and infinity infinity; neither takes part in the formulas.
    value = jnp.where(jnp.all(jnp.isfinite(wide)), value, jnp.sum(jnp.abs(wide)))
    return value, saturate(2.0 * limited * slope, weights.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _acyclicity(weights: Array, method: Method, bound: float) -> Array:
    return _value_and_slope(weights, method, bound)[0]


@_acyclicity.defjvp
def _acyclicity_jvp(
    method: Method, bound: float, primals: tuple, tangents: tuple
) -> tuple:
    value, slope = _value_and_slope(primals[0], method, bound)
    return value, jnp.sum(widen(slope) * widen(tangents[0]))


def _check(function: str, weights: Array, bound: float) -> None:
    check_range(function, "bound", bound, low=1e-6, high=1e6)
    if weights.ndim != 2 or weights.shape[0] != weights.shape[1] or not weights.size:
        raise ValueError(
            f"{function}: weights must be a square matrix, got shape {weights.shape}."
        )


def acyclicity(
    weights: Float[Array, "nodes nodes"],
    *,
    method: Method = "exponential",
    bound: float = 1.0,
) -> Float[Array, ""]:
    """Measure the directed cycles of a graph; exactly zero if there are none.

    With ``A = weights**2`` elementwise and d nodes, by ``method``:

    - ``"exponential"``: ``trace(exp(A)) - d``. Long cycles weigh ``1 / length!``.
    - ``"polynomial"``: ``trace((I + A/d)**d) - d``. Grows more slowly.
    - ``"log_determinant"``: ``-log det(bound I - A) + d log(bound)``. Feels long
      cycles best, but is defined only while the spectral radius of A is below
      ``bound``. Outside it is ``inf``, so that the step is refused. The sign of the
      determinant does not tell: it is positive again past two eigenvalues, so the
      pivots are checked, see `in_acyclicity_domain`.
    - ``"spectral"``: the spectral radius of A, whatever the length of the cycle.
      Costs thirty eliminations, some twenty times any of the others.

    No term is ever subtracted, so small values are exact: nothing is lost against
    the d that the formulas take off.

    Args:
        weights: ``weights[i, j]`` is the edge from i to j, of any sign; the diagonal
            counts. Sizes beyond 1e15 count as 1e15.
        method: The measure.
        bound: For ``"log_determinant"``, in the unit of A, [1e-6, 1e6].

    Returns:
        The measure, float32 (float64 for float64 weights), finite for finite
        weights except as said. In float32 and up to 100 nodes it is right to 1e-5
        while the entries of ``exp(A)`` stay below 1e30, that is up to a spectral
        radius of about 70; beyond, it saturates. What one long cycle adds is lost to
        underflow below about 1e-25, so that zero does not prove a graph acyclic.
        ``"spectral"`` sees a cycle of any length; a radius below 1e-19 of the largest
        row sum is reported as that. NaN stays NaN.

    Raises:
        ValueError: If ``weights`` is not square or ``bound`` out of range.

    Gradient:
        ``2 weights * M.T`` with M being ``exp(A)``, ``(I + A/d)**(d - 1)``,
        ``inv(bound I - A)``, or the product of the right and left eigenvector;
        saturated like the value, zero outside the domain. A second derivative is to
        be taken forward (`jax.hessian` does).

    Source:
        NOTEARS, Zheng et al. (2018), arXiv:1803.01422; DAG-GNN, Yu et al. (2019),
        arXiv:1904.10098; DAGMA, Bello et al. (2022), arXiv:2209.08037; NO-BEARS, Lee
        et al. (2019), arXiv:1911.00301. The algorithms are own.

    Example:
        >>> cycle = jnp.array([[0.0, 0.5], [0.5, 0.0]])
        >>> round(float(acyclicity(cycle)), 4)
        0.0628
        >>> round(float(acyclicity(cycle, method="spectral")), 6)
        0.25
        >>> float(acyclicity(jnp.triu(cycle)))
        0.0
    """
    if method not in _METHODS:
        raise ValueError(
            f"acyclicity: method must be among {sorted(_METHODS)}, got {method!r}."
        )
    _check("acyclicity", weights, bound)
    return _acyclicity(weights, method, bound)


def in_acyclicity_domain(
    weights: Float[Array, "nodes nodes"], *, bound: float = 1.0
) -> Bool[Array, ""]:
    """Tell whether ``acyclicity(..., method="log_determinant")`` is defined.

    ``spectral radius of weights**2 < bound``, by the signs of all pivots of
    ``bound I - weights**2``: it is an M-matrix exactly if they are positive.

    Args:
        weights: The edges, as in `acyclicity`.
        bound: The limit, in the unit of ``weights**2``, [1e-6, 1e6].

    Returns:
        Whether it is; False if a weight is not finite.

    Raises:
        ValueError: If ``weights`` is not square or ``bound`` out of range.

    Source:
        Berman & Plemmons (1994), Nonnegative Matrices, theorem 6.2.3.

    Example:
        >>> weights = 2.0 * jnp.eye(2)  # det(I - weights**2) = 9 is positive
        >>> bool(in_acyclicity_domain(weights))
        False
    """
    _check("in_acyclicity_domain", weights, bound)
    limited = jax.lax.stop_gradient(_limited(weights))
    _, loops = closure(limited * limited / bound)
    return jnp.all(loops < 1.0) & jnp.all(jnp.isfinite(weights))
