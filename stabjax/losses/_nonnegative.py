"""Sums over the paths of a graph: functions of a matrix without negative entries.

Nothing is subtracted on the way, so every entry is right to a few units in its last
place, however small it is next to the others. Entries saturate before a product of
two can overflow; zeros stay exactly zero.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics._precision import power_of_two

# Terms of the Taylor series by bits of the mantissa; with a norm below 1/2 the rest
# is under 1e-8, or 1e-16, of the sum.
_TERMS = {23: 8, 52: 14}
# At least 32 factors, so that cycles far longer than the series are counted right.
_LARGEST_SCALE = 2.0**-5
# The spectral radius is sought down to this share of the norm.
_OCTAVES = 64


def _ceiling(matrix: Array) -> float:
    """Return the entry up to which a sum of all sums of products stays finite."""
    return math.sqrt(float(jnp.finfo(matrix.dtype).max)) / (2 * matrix.shape[0])


def _times(left: Array, right: Array) -> Array:
    # Accelerators round the factors of a float32 product unless told otherwise.
    return jnp.matmul(left, right, precision=jax.lax.Precision.HIGHEST)


def join(
    left: Float[Array, "nodes nodes"], right: Float[Array, "nodes nodes"]
) -> Float[Array, "nodes nodes"]:
    """Return ``(I + left) @ (I + right) - I``."""
    left = jnp.minimum(left, _ceiling(left))
    right = jnp.minimum(right, _ceiling(right))
    return left + right + _times(left, right)


def _norm(matrix: Array) -> Array:
    """Return the smaller of the largest row sum and the largest column sum."""
    return jnp.minimum(jnp.max(jnp.sum(matrix, 0)), jnp.max(jnp.sum(matrix, 1)))


def exp_minus_one(matrix: Float[Array, "nodes nodes"]) -> Float[Array, "nodes nodes"]:
    """Return ``exp(matrix) - I`` by a Taylor series and doubling."""
    scale = jnp.minimum(0.25 / power_of_two(_norm(matrix)), _LARGEST_SCALE)
    small = matrix * scale
    terms = _TERMS[jnp.finfo(matrix.dtype).nmant]
    total = small / terms
    for term in range(terms - 1, 0, -1):
        total = (small + _times(small, total)) / term
    doublings = jnp.round(-jnp.log2(scale)).astype(jnp.int32)
    return jax.lax.fori_loop(0, doublings, lambda _, e: join(e, e), total)


def power_minus_one(
    matrix: Float[Array, "nodes nodes"], exponent: int
) -> Float[Array, "nodes nodes"]:
    """Return ``(I + matrix)**exponent - I`` by repeated squaring."""
    total = jnp.zeros_like(matrix)
    for bit in f"{exponent:b}":
        total = join(total, total)
        if bit == "1":
            total = join(total, matrix)
    return total


def closure(
    matrix: Float[Array, "nodes nodes"],
) -> tuple[Float[Array, "nodes nodes"], Float[Array, "nodes"]]:
    """Return ``inv(I - matrix) - I`` and the complements of its pivots.

    Kleene's elimination, node by node: the sum over all walks that use the nodes so
    far. ``det(I - matrix) = prod(1 - loops)``, and the spectral radius is below one
    exactly if every entry of ``loops`` is; otherwise both results mean nothing.
    """
    ceiling = _ceiling(matrix)

    def eliminate(node: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        walks, loops = carry
        loop = walks[node, node]
        rounds = 1.0 / jnp.where(loop < 1.0, 1.0 - loop, 1.0)
        through = (walks[:, node] * rounds)[:, None] * walks[node][None, :]
        return jnp.minimum(walks + through, ceiling), loops.at[node].set(loop)

    start = (jnp.minimum(matrix, ceiling), jnp.zeros_like(matrix[0]))
    return jax.lax.fori_loop(0, matrix.shape[0], eliminate, start)


def spectral_radius(
    matrix: Float[Array, "nodes nodes"],
) -> tuple[Float[Array, ""], Float[Array, "nodes nodes"]]:
    """Return the spectral radius and its derivative.

    Bisection with the domain of `closure`, which decides right also for matrices
    that are periodic or all but nilpotent, where power iteration and rounded
    eigenvalues fail. Just above the radius the closure is the product of the right
    and the left eigenvector.
    """
    power = 2.0 * power_of_two(_norm(matrix))
    relative = matrix * (1.0 / power)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        inside = jnp.all(closure(relative / middle)[1] < 1.0)
        return jnp.where(inside, low, middle), jnp.where(inside, middle, high)

    one = jnp.ones_like(power)
    bounds = (one * 2.0**-_OCTAVES, one)
    # Halves the 64 = 2**6 octaves until less than half of the last place is left.
    halvings = jnp.finfo(matrix.dtype).nmant + 7
    _, high = jax.lax.fori_loop(0, halvings, halve, bounds)
    walks, loops = closure(relative / high)
    cyclic = jnp.any(loops > 0.0)
    resolvent = (walks + jnp.eye(matrix.shape[0], dtype=matrix.dtype)).T
    slope = resolvent / jnp.trace(resolvent)
    return jnp.where(cyclic, high * power, 0.0), jnp.where(cyclic, slope, 0.0)
