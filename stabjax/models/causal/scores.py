"""How unlikely the data are under a linear structural model: one number per row.

With residuals ``R = X - X W - sum_k X_{t-k} V_k`` and one density for each node's
noise, the negative log-likelihood of a row is ``sum_j -log p_j(R_j) - log|det(I - W)|``
(the last term is zero once W is acyclic). The scores differ in the density.
"""

import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.models.causal.order_search import (
    LOG_COSH_WEIGHT,
    NORMAL_LOG_COSH,
    SKEW_WEIGHT,
)

__all__ = [
    "NEEDS_RESIDUALS",
    "Score",
    "equal_variance",
    "log_abs_det",
    "residual_score",
]

Score = Literal["ev", "evlog", "logcosh", "laplace", "student_t", "entropy"]

# The others need no more of the data than their second moments.
NEEDS_RESIDUALS: tuple[str, ...] = ("logcosh", "laplace", "student_t", "entropy")

_TINY = 1e-12  # of a variance: residuals below it have no shape
_FREEDOM = 4.0  # degrees of freedom of Student's t
_NORMAL_ENTROPY = 0.5 * (1.0 + math.log(2.0 * math.pi))


def log_abs_det(weights: Float[Array, "nodes nodes"]) -> Float[Array, ""]:
    """Return ``log|det(I - weights)|``; -inf if the matrix is singular."""
    identity = jnp.eye(weights.shape[0], dtype=weights.dtype)
    return jnp.linalg.slogdet(identity - weights)[1]


def equal_variance(
    variances: Float[Array, " nodes"], *, logarithm: bool
) -> Float[Array, ""]:
    """Return the Gaussian score of noise with one variance for all nodes.

    ``"ev"`` takes that variance for known: ``sum_j v_j / 2``, least squares.
    ``"evlog"`` takes the best one: ``(nodes / 2) log(mean_j v_j)``, which any common
    factor on the data only shifts.

    Args:
        variances: Mean squared residual of every node, > 0.
        logarithm: Whether it is ``"evlog"``.

    Source:
        GOLEM-EV, Ng, Ghassami & Zhang (2020), arXiv:2006.10201, equation 4.
    """
    if not logarithm:
        return 0.5 * jnp.sum(variances)
    return 0.5 * variances.shape[0] * jnp.log(jnp.maximum(jnp.mean(variances), _TINY))


def residual_score(
    residuals: Float[Array, "rows nodes"],
    observed: Float[Array, "rows nodes"],
    score: str,
) -> Float[Array, ""]:
    """Return ``sum_j -E log p_j(R_j)`` with every node's own location and scale.

    Location and scale are those of the residuals, which makes the score the same in
    any unit of any column. The shape of the density:

    - ``"logcosh"``: logistic; ``"student_t"``: four degrees of freedom;
      ``"laplace"``: two-sided exponential. All are symmetric, with heavy tails.
    - ``"entropy"``: whichever fits best of those with the residuals' mean of
      ``log cosh u`` and of ``u exp(-u^2/2)``; the score is then an estimate of the
      residuals' entropy. It sees light tails and skewness, and is the only one here
      for which one-sided noise is no misfit. Far from the normal law it is too low,
      by up to 11 nats for a sharp peak with rare outliers.

    Args:
        residuals: [rows, nodes].
        observed: 1 where the node itself was observed, else 0.
        score: One of `NEEDS_RESIDUALS`.

    Returns:
        Nats per row.

    Gradient:
        Flows through location and scale too; zero for a node whose residuals have
        a variance below 1e-12.

    Source:
        Entropy: Hyvarinen (1998), "New approximations of differential entropy",
        NIPS 10, with the two moments of Hyvarinen & Smith (2013), JMLR 14.
    """
    total = jnp.maximum(jnp.sum(observed, axis=0), 1.0)

    def mean(values: Array) -> Array:
        return jnp.sum(jnp.where(observed > 0.0, values, 0.0), axis=0) / total

    # Here too, or the gradient of what was not observed could be 0 times infinity.
    residuals = jnp.where(observed > 0.0, residuals, 0.0)
    centered = residuals - mean(residuals)[None, :]
    spread = jnp.sqrt(jnp.maximum(mean(centered**2), _TINY))
    shape = _SHAPES[score](centered / spread[None, :], mean)
    return jnp.sum(jnp.log(spread) + shape)


def _log_cosh(u: Array) -> Array:
    return jnp.logaddexp(u, -u) - math.log(2.0)


def _logistic(u: Array, mean: Callable[[Array], Array]) -> Array:
    steep = math.pi / math.sqrt(3.0)  # unit variance
    return mean(2.0 * _log_cosh(0.5 * steep * u)) + math.log(4.0 / steep)


def _student_t(u: Array, mean: Callable[[Array], Array]) -> Array:
    spread = _FREEDOM - 2.0  # unit variance
    constant = (
        math.lgamma(0.5 * _FREEDOM)
        - math.lgamma(0.5 * (_FREEDOM + 1.0))
        + 0.5 * math.log(math.pi * spread)
    )
    return 0.5 * (_FREEDOM + 1.0) * mean(jnp.log1p(u**2 / spread)) + constant


def _laplace(u: Array, mean: Callable[[Array], Array]) -> Array:
    # Smooth within a thousandth of the deviation, so that Adam can come to rest.
    size = mean(jnp.sqrt(u**2 + 1e-6))
    return jnp.log(2.0 * size) + 1.0  # the scale that fits best


def _entropy(u: Array, mean: Callable[[Array], Array]) -> Array:
    heavy = mean(_log_cosh(u)) - NORMAL_LOG_COSH
    skew = mean(u * jnp.exp(-0.5 * u**2))
    return _NORMAL_ENTROPY - LOG_COSH_WEIGHT * heavy**2 - SKEW_WEIGHT * skew**2


_SHAPES: dict[str, Callable[[Array, Callable[[Array], Array]], Array]] = {
    "logcosh": _logistic,
    "laplace": _laplace,
    "student_t": _student_t,
    "entropy": _entropy,
}
