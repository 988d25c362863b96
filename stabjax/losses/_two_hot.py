"""Scalars as weights on a grid, so that regression becomes classification."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float

from stabjax.losses._cross_entropy import inert, tail
from stabjax.numerics import masked_mean
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen

Bins = Float[Array | np.ndarray, " bins"]


def two_hot_bins(count: int = 255, *, limit: float = 20.0) -> Float[np.ndarray, "bins"]:
    """Return a symmetric grid that is dense near zero and reaches far.

    ``symexp(linspace(-limit, limit, count))``.

    Args:
        count: Number of bins, [2, 1e6]; an odd number has a bin at zero.
        limit: Logarithm of the largest bin, [1.2e-38, 80].

    Returns:
        Increasing bins, float32, exactly antisymmetric: 4.9e8 at ``limit=20``.

    Raises:
        ValueError: If an option is outside its range.

    Source:
        Hafner et al. (2023), arXiv:2301.04104.

    Example:
        >>> [round(b, 3) for b in two_hot_bins(5, limit=2.0).tolist()]
        [-6.389, -1.718, 0.0, 1.718, 6.389]
    """
    check_range("two_hot_bins", "count", count, low=2, high=10**6)
    check_range("two_hot_bins", "limit", limit, high=80.0)
    places = np.linspace(-limit, limit, count)
    places = 0.5 * (places - places[::-1])  # linspace rounds its two halves apart
    return (np.sign(places) * np.expm1(np.abs(places))).astype(np.float32)


def _check_bins(function: str, bins: Bins) -> None:
    if isinstance(bins, Tracer):
        return
    steps = np.diff(np.asarray(bins, np.float64))
    if not (steps.size and np.all(steps > 0.0) and np.all(np.isfinite(steps))):
        raise ValueError(
            f"{function}: bins must be two or more increasing numbers, got {bins}."
        )


def two_hot(x: Float[Array, "*shape"], bins: Bins) -> Float[Array, "*shape bins"]:
    """Spread each scalar over the two bins beside it, keeping its mean.

    ``(b[k+1] - x) / (b[k+1] - b[k])`` on bin k and the rest on bin k + 1, for
    ``b[k] <= x < b[k+1]``; zero elsewhere.

    Args:
        x: Any floats, for example returns. Beyond the grid, and at an infinity, they
            count as its first or last bin.
        bins: Strictly increasing, in the unit of ``x``, up to 1e38, such as
            `two_hot_bins`.

    Returns:
        Weights that sum to one, float32 (float64 for float64 ``x``). A row of NaN
        where ``x`` is NaN.

    Raises:
        ValueError: If the bins are known while tracing and do not increase.

    Gradient:
        Minus and plus ``1 / (b[k+1] - b[k])`` on the two bins; zero beyond the grid.

    Source:
        Hafner et al. (2023), arXiv:2301.04104.

    Example:
        >>> two_hot(jnp.array(0.25), jnp.array([-1.0, 0.0, 1.0])).tolist()
        [0.0, 0.75, 0.25]
    """
    _check_bins("two_hot", bins)
    wide = widen(x)
    grid = jnp.asarray(bins, wide.dtype)
    first, last = grid[0], grid[-1]
    wide = jnp.where(wide < first, first, jnp.where(wide > last, last, wide))
    places = jnp.expand_dims(grid, tuple(range(x.ndim)))
    below, above = places[..., :-1], places[..., 1:]
    value = wide[..., None]
    # Negated, so that a NaN is in every interval.
    inside = ~(value < below) & (~(value >= above) | (above == last))
    # Halved, so that the width of the widest interval is finite.
    width = 0.5 * above - 0.5 * below
    left = jnp.where(inside, (0.5 * above - 0.5 * value) / width, 0.0)
    right = jnp.where(inside, (0.5 * value - 0.5 * below) / width, 0.0)
    ends = [(0, 0)] * x.ndim
    return jnp.pad(left, [*ends, (0, 1)]) + jnp.pad(right, [*ends, (1, 0)])


def two_hot_decode(
    probabilities: Float[Array, "*shape bins"], bins: Bins
) -> Float[Array, "*shape"]:
    """Return the mean of a distribution over bins; it undoes `two_hot`.

    ``sum_k p_k b_k``, where two bins of opposite value first subtract their
    probabilities: equal ones on a symmetric grid give exactly zero, not a remainder
    of the size of the rounding of the largest bin.

    Args:
        probabilities: Weights that sum to one, for example a softmax.
        bins: Strictly increasing, such as `two_hot_bins`.

    Returns:
        The mean, float32 (float64 for float64 weights), in the unit of ``bins``.

    Raises:
        ValueError: If the bins are known while tracing and do not increase.

    Gradient:
        ``b_k`` with respect to ``p_k``: as large as the largest bin. To train, use
        `two_hot_cross_entropy`.

    Source:
        Hafner et al. (2023), arXiv:2301.04104.

    Example:
        >>> bins = jnp.array([-1.0, 0.0, 1.0])
        >>> float(two_hot_decode(two_hot(jnp.array(0.25), bins), bins))
        0.25
    """
    _check_bins("two_hot_decode", bins)
    wide = widen(probabilities)
    grid = jnp.asarray(bins, wide.dtype)
    chex.assert_axis_dimension(probabilities, -1, grid.size)
    places = jnp.expand_dims(grid, tuple(range(wide.ndim - 1)))
    opposite, other = jnp.flip(places, axis=-1), jnp.flip(wide, axis=-1)
    # Not the sum of two products: a fused multiply-add rounds only one of them.
    mirrored = places * (wide - other)
    pairs = jnp.where(places == -opposite, mirrored, places * wide + opposite * other)
    return 0.5 * jnp.sum(pairs, axis=-1)


@jax.custom_jvp
def _soft_cross_entropy(logits: Array, weights: Array) -> Array:
    relative, others = tail(logits)
    # Selected: an impossible bin, at -inf, has no part in it.
    chosen = jnp.where(weights == 0, 0.0, weights * relative)
    return jnp.log1p(others) - jnp.sum(chosen, axis=-1)


@_soft_cross_entropy.defjvp
def _soft_cross_entropy_jvp(primals: tuple, tangents: tuple) -> tuple:
    logits, weights = primals
    relative, others = tail(logits)
    slope = jnp.exp(relative) / (1.0 + others)[..., None] - weights
    tangent = jnp.sum(slope * tangents[0], axis=-1)
    return _soft_cross_entropy(*primals), tangent


def two_hot_cross_entropy(
    logits: Float[Array, "*batch bins"],
    target: Float[Array, "*batch"],
    bins: Bins,
    *,
    mask: Bool[Array, "*batch"] | None = None,
) -> Float[Array, ""]:
    """Train a distribution over bins toward scalars, whatever their size.

    ``mean(-sum_k two_hot(target)_k log softmax(logits)_k)`` over the positions that
    count. The gradient does not grow with the target, as that of a squared error
    does.

    Args:
        logits: Unnormalized log-probabilities [nat], up to 1e38.
        target: Scalars in the unit of ``bins``.
        bins: Strictly increasing, such as `two_hot_bins`.
        mask: The positions that count; all by default. NaN elsewhere is inert.

    Returns:
        The loss [nat], float32 (float64 for float64 logits); zero if nothing counts.
        NaN if a logit or a target that counts is.

    Raises:
        ValueError: If the bins are known while tracing and do not increase.
        AssertionError: If the shapes of logits and targets do not fit.

    Gradient:
        ``(softmax(logits) - two_hot(target)) / n``; none with respect to the target.

    Source:
        Hafner et al. (2023), arXiv:2301.04104.

    Example:
        >>> logits, bins = jnp.zeros((1, 255)), two_hot_bins()
        >>> round(float(two_hot_cross_entropy(logits, jnp.array([1e3]), bins)), 4)
        5.5413
    """
    # Checked while tracing: targets of shape (batch, 1) would broadcast in silence.
    chex.assert_shape(target, logits.shape[:-1])
    counts = jnp.ones(target.shape, jnp.bool_) if mask is None else mask
    wide = inert(logits, counts)
    aim = jnp.where(counts, jax.lax.stop_gradient(target).astype(wide.dtype), 0.0)
    losses = _soft_cross_entropy(wide, two_hot(aim, bins))
    return masked_mean(losses, counts)
