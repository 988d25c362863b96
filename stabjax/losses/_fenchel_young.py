"""Learning a distribution from samples: the surrogate of a Fenchel-Young loss."""

import math
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.numerics import masked_mean
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen


def fenchel_young(
    theta: Float[Array, "*cells classes"],
    mu: Float[Array, "*cells classes"],
    target: Float[Array, "*cells classes"],
    *,
    mask: Bool[Array, "*cells"] | None = None,
    reduction: Literal["mean", "sum"] = "mean",
) -> Float[Array, ""]:
    """Pull the expectation of a sampler toward its target.

    ``mean_i <theta_i, stop_gradient(mu_i - target_i)>`` over the cells that count.
    The value is not the Fenchel-Young loss itself, only its gradient is. It may be
    negative, but not by much as long as the target lies in the convex hull of what
    the sampler can produce (`fenchel_young_bound`). Outside the hull it has no lower
    bound and training runs away downhill: see `hull_violation`.

    Args:
        theta: Scores of the classes per cell, dimensionless, up to 1e37.
        mu: Estimate of the expected state under ``theta``, rows in the simplex.
        target: The state to learn, rows in the simplex (one-hot or soft).
        mask: The cells that count; all by default. NaN elsewhere is inert.
        reduction: ``"mean"`` over the cells that count, or ``"sum"``, whose size and
            gradient grow with the number of cells.

    Returns:
        The surrogate [nat], float32 (float64 for float64 inputs). Zero if no cell
        counts.

    Raises:
        ValueError: If ``reduction`` is neither.
        AssertionError: If the shapes of ``theta``, ``mu`` and ``target`` differ.

    Gradient:
        ``(mu - target) / n`` with respect to ``theta``, without the ``1/n`` for
        ``"sum"``; none with respect to ``mu`` and ``target``.

    Source:
        Blondel, Martins & Niculae (2020), JMLR 21(35); perturbed and sampled
        expectations, Berthet et al. (2020), arXiv:2002.08676.

    Example:
        >>> theta, mu = jnp.array([[1.0, 0.0]]), jnp.array([[0.75, 0.25]])
        >>> target = jnp.array([[0.0, 1.0]])
        >>> float(fenchel_young(theta, mu, target))
        0.75
        >>> jax.grad(fenchel_young)(theta, mu, target).tolist()
        [[0.75, -0.75]]
    """
    if reduction not in ("mean", "sum"):
        raise ValueError(
            f"fenchel_young: reduction must be 'mean' or 'sum', got {reduction!r}."
        )
    # Checked while tracing: one row for all cells would broadcast in silence.
    chex.assert_equal_shape([theta, mu, target])
    counts = jnp.ones(theta.shape[:-1], jnp.bool_) if mask is None else mask
    gap = jax.lax.stop_gradient(widen(mu) - widen(target))
    gap = jnp.where(counts[..., None], gap, 0.0)
    scores = jnp.where(counts[..., None], widen(theta), 0.0)
    cells = jnp.sum(scores * gap, axis=-1)
    return masked_mean(cells, counts) if reduction == "mean" else jnp.sum(cells)


def _lambert_w(x: float) -> float:
    """Solve ``w * exp(w) = x`` for x >= 0 by Newton's method."""
    w = math.log1p(x)
    for _ in range(50):
        w -= (w * math.exp(w) - x) / (math.exp(w) * (w + 1.0))
    return w


def fenchel_young_bound(classes: int, *, temperature: float = 1.0) -> float:
    """Return the least `fenchel_young` can be per cell without a potential.

    ``-t * W0((K - 1) / e)`` with Lambert's W: -1.101 for 10 classes, -0.278 for 2.

    It holds for ``mu = softmax(theta / t)`` and any target in the simplex. The loss
    is linear in the target, so the least is at a vertex c. There, with
    ``theta_k = t log p_k + constant``, it is ``-t (H(p) + log p_c)``; for a given
    p_c the entropy H is largest when the other classes share the rest equally. That
    leaves one number, ``u = (theta_c - theta_other) / t``, and the loss
    ``-t u (K - 1) / (exp(u) + K - 1)``. Its derivative vanishes where
    ``(u - 1) exp(u) = K - 1``, that is ``u = 1 + W0((K - 1) / e)``, and putting this
    back in gives ``-t (u - 1)``.

    Args:
        classes: Number of classes K, at least 1.
        temperature: Temperature t of the sampler, [1.2e-38, 1e30].

    Returns:
        The bound [nat]; attained, so the best possible.

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Derivation above, own.

    Example:
        >>> round(fenchel_young_bound(10), 3), round(fenchel_young_bound(2), 3)
        (-1.101, -0.278)
    """
    check_range("fenchel_young_bound", "classes", classes, low=1)
    check_range("fenchel_young_bound", "temperature", temperature)
    return -temperature * _lambert_w((classes - 1) / math.e)


def fenchel_young_bound_any_potential(
    classes: int, *, temperature: float = 1.0
) -> float:
    """Return a lower bound of the surrogate per cell under any potential phi.

    ``-t * log K``: -2.303 for 10 classes.

    For a Gibbs distribution ``p(y) ~ exp((<theta, y> + phi(y)) / t)`` over
    one-hot grids of d cells, the surrogate with its potential terms,
    ``<theta, mu - y> + E[phi] - phi(y)``, is the Fenchel-Young loss
    ``t log Z - <theta, y> - phi(y) >= 0`` minus ``t H(p)``, because
    ``t log Z = <theta, mu> + E[phi] + t H(p)``. The entropy of d cells of K classes
    is at most ``d log K``; divided by d this is the bound. It holds for exact
    expectations: a chain that has not mixed may pass below for a while.

    Args:
        classes: Number of classes K, at least 1.
        temperature: Temperature t of the sampler, [1.2e-38, 1e30].

    Returns:
        The bound [nat].

    Raises:
        ValueError: If an argument is outside its range.

    Source:
        Derivation above, own.

    Example:
        >>> round(fenchel_young_bound_any_potential(10), 3)
        -2.303
    """
    check_range("fenchel_young_bound_any_potential", "classes", classes, low=1)
    check_range("fenchel_young_bound_any_potential", "temperature", temperature)
    return -temperature * math.log(classes)
