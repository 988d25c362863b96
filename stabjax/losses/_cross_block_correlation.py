"""Correlation between blocks of latent codes, and only between them."""

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stabjax.losses._spread_mask import spread_mask
from stabjax.numerics import standardize
from stabjax.numerics._precision import widen


def _pair_weights(sizes: Sequence[int], dtype: jnp.dtype) -> Array:
    """Return the weight of each squared correlation; zero within a block."""
    ends = np.cumsum(sizes)
    blocks = [slice(end - size, end) for size, end in zip(sizes, ends, strict=True)]
    weights = np.zeros((ends[-1], ends[-1]))
    pairs = list(itertools.combinations(range(len(sizes)), 2))
    for one, other in pairs:
        share = 1.0 / (len(pairs) * sizes[one] * sizes[other])
        weights[blocks[one], blocks[other]] = share
    return jnp.asarray(weights, dtype)


def _check_sizes(sizes: Sequence[int], columns: int) -> None:
    whole = all(isinstance(size, int) and size > 0 for size in sizes)
    if not whole or len(sizes) < 2 or sum(sizes) != columns:
        raise ValueError(
            "cross_block_correlation: sizes must be two or more whole numbers > 0 "
            f"that add up to the {columns} columns, got {tuple(sizes)}."
        )


def cross_block_correlation(
    codes: Float[Array, "batch columns"],
    *,
    sizes: Sequence[int],
    mask: Bool[Array, "batch"] | None = None,
    eps: float = 1e-4,
) -> Float[Array, ""]:
    """Average the squared correlation between columns of different blocks.

    ``mean over pairs of blocks (a, b) of ||C_ab||_F**2 / (size_a size_b)`` with
    ``C_ij = mean(z_i z_j)``, ``z = (x - mean) / (std + eps)``. The correlation
    matrix as a whole, as seed 001 averages it, also holds its diagonal of ones and
    what happens within a block: a floor that no training can lower.

    Zero says that there is no *linear* dependence, not that blocks are independent.
    Independent columns do not reach it either: over n rows they have
    ``1 / (n - 1)`` on average, and two rows are always perfectly correlated.

    Args:
        codes: The blocks side by side, of any unit.
        sizes: Number of columns of each block, in order.
        mask: The rows that count; all by default. NaN elsewhere is inert.
        eps: Added to the deviation, in the unit of ``codes``, [1e-30, 1e30]. A
            column far below it counts as constant, and so as uncorrelated.

    Returns:
        The loss in [0, 1], float32 (float64 for float64 codes). Zero for constant
        columns, for one row and for none.

    Raises:
        ValueError: If ``sizes`` do not describe the columns, or ``eps`` is outside
            its range.

    Gradient:
        That of the formula, at most of order ``1 / eps``; zero at a constant column.

    Source:
        Seed 001 averages absolute values over the whole matrix; this form is own.

    Example:
        >>> line = jnp.linspace(-1.0, 1.0, 5)
        >>> codes = jnp.stack([line, line**2, 3.0 * line], axis=1)
        >>> round(float(cross_block_correlation(codes, sizes=(2, 1))), 3)
        0.5
    """
    _check_sizes(sizes, codes.shape[1])
    rows = jnp.ones(codes.shape[:1], jnp.bool_) if mask is None else mask
    counts = spread_mask("cross_block_correlation", rows, codes)
    scores = standardize(widen(codes), counts, axis=0, eps=eps)
    total = jnp.maximum(jnp.sum(rows, dtype=jnp.int32), 1).astype(scores.dtype)
    products = jnp.matmul(scores.T, scores, precision=jax.lax.Precision.HIGHEST)
    correlation = products / total
    weights = _pair_weights(sizes, scores.dtype)
    return jnp.sum(jnp.where(weights > 0.0, weights * correlation**2, 0.0))
