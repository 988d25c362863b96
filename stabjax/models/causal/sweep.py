"""Thresholds on an adjacency, judged against the true graph: what the seed does.

Choosing the threshold on the truth is a leak, so its scores are for the settings
``before`` and ``seed`` alone. It reads the graph and no data: its "validation" scores
are the same on any data.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from stabjax.numerics import safe_divide

__all__ = ["FIXED_THRESHOLD", "THRESHOLDS", "GraphScore", "score_graph"]

FIXED_THRESHOLD = 0.5
THRESHOLDS = np.linspace(0.0, 1.0, 21, dtype=np.float32)


class GraphScore(NamedTuple):
    """Scores at the chosen threshold.

    Attributes:
        f1: ``2 TP / (2 TP + FP + FN)``, the diagonal counted.
        shd: Entries that differ from the truth; a reversed edge counts twice.
        edges: Entries above the threshold.
        threshold: The chosen one.
    """

    f1: Float[Array, ""]
    shd: Float[Array, ""]
    edges: Float[Array, ""]
    threshold: Float[Array, ""]


def score_graph(
    adjacency: Float[Array, "d d"],
    truth: Float[Array, "d d"] | None,
    thresholds: Float[np.ndarray, " thresholds"],
) -> GraphScore:
    """Return the scores at the threshold of highest F1; the first of equals.

    Without any F1 above zero, or without a truth, the threshold is 0.5, as before the
    search in the original; without a truth F1 and SHD are NaN.

    Args:
        adjacency: In [0, 1].
        truth: 1 where there is an edge, 0 elsewhere, or None.
        thresholds: To choose among; one alone is no choice.

    Gradient:
        None; counts are locally constant.
    """
    levels = jnp.asarray(thresholds)[:, None, None]
    found = adjacency[None] > levels
    edges = _count(found)
    if truth is None:
        above = (adjacency > FIXED_THRESHOLD)[None]
        missing = jnp.full((), jnp.nan, jnp.float32)
        return GraphScore(
            missing, missing, _count(above)[0], jnp.float32(FIXED_THRESHOLD)
        )
    true = (truth > 0.5)[None]
    hits = _count(found & true)
    f1 = safe_divide(2.0 * hits, edges + _count(true), floor=1.0)
    shd = _count(found != true)
    return _at_best(f1, shd, edges, jnp.asarray(thresholds))


def _at_best(
    f1: Float[Array, " thresholds"],
    shd: Float[Array, " thresholds"],
    edges: Float[Array, " thresholds"],
    thresholds: Float[Array, " thresholds"],
) -> GraphScore:
    best = jnp.argmax(f1)
    # Nothing was found: the original then keeps what it had before the search.
    fallback = jnp.argmin(jnp.abs(thresholds - FIXED_THRESHOLD))
    place = jnp.where(f1[best] > 0.0, best, fallback)
    return GraphScore(f1[place], shd[place], edges[place], thresholds[place])


def _count(entries: Bool[Array, "some d d"]) -> Float[Array, " some"]:
    return jnp.sum(entries, axis=(1, 2), dtype=jnp.float32)
