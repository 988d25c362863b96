"""The distance between two samples on the line; inf or NaN where there is none."""

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

__all__ = ["wasserstein"]


def wasserstein(
    first: Float[np.ndarray, " m"],
    second: Float[np.ndarray, " n"],
    *,
    times: tuple[Int[np.ndarray, " m"], Int[np.ndarray, " n"]] | None = None,
) -> float:
    """Return W1 = integral |F(x) - G(x)| dx of two samples on the line.

    Args:
        first: One sample.
        second: The other.
        times: How often each value counts; once by default.

    Returns:
        The distance, in the unit of the values; inf if one sample is empty, NaN if a
        value is not finite.
    """
    first, second = first.astype(np.float64), second.astype(np.float64)
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan")
    if times is None:
        empty = not len(first) or not len(second)
        return float("inf" if empty else stats.wasserstein_distance(first, second))
    if not times[0].any() or not times[1].any():
        return float("inf")
    return float(stats.wasserstein_distance(first, second, *times))
