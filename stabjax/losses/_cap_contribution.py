"""A limit on the share that auxiliary losses, or their gradients, may take."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from stabjax.numerics import safe_divide
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import TINY, widen

# The seed never scales the auxiliary weights below this.
_SEED_FLOOR = 0.01


def _check_ratio(function: str, ratio: float) -> None:
    # The high end keeps ratio / (1 - ratio) far from overflow.
    check_range(function, "ratio", ratio, low=0.0, high=0.999)


def _factor(main: Array, auxiliary: Array, ratio: float) -> Array:
    """Return the largest factor <= 1 that holds ``auxiliary`` to its share.

    One where either is not finite: then the total is not finite in any case, and a
    factor of zero or NaN would only hide which of the two it was.
    """
    quotient = safe_divide(jnp.abs(main), auxiliary, floor=TINY)
    factor = jnp.minimum(ratio / (1.0 - ratio) * quotient, 1.0)
    sound = jnp.isfinite(main) & jnp.isfinite(auxiliary)
    return jax.lax.stop_gradient(jnp.where(sound, factor, 1.0))


def _seed_factor(main: Array, weights: Array, ratio: float) -> Array:
    allowed = ratio / (1.0 - ratio) * main
    weight = jnp.sum(weights)
    capped = (main > 0.0) & (weight > allowed)
    factor = jnp.clip(safe_divide(allowed, weight, floor=TINY), _SEED_FLOOR, 1.0)
    return jax.lax.stop_gradient(jnp.where(capped, factor, 1.0))


def cap_contribution(
    main: Float[Array, ""],
    auxiliary: Float[Array, "terms"],
    ratio: float,
    *,
    weights: Float[Array, "terms"] | None = None,
    compare: Literal["losses", "weights"] = "losses",
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Scale auxiliary losses down to at most ``ratio`` of the total.

    ``main + k * sum_i w_i a_i`` with ``k = min(1, r |main| / sum_i |w_i a_i|)`` and
    ``r = ratio / (1 - ratio)``. Then ``k sum |w a| <= ratio (|main| + k sum |w a|)``:
    the share is one of sizes, so that terms of opposite sign cannot hide in it.

    Where ``main`` is zero the auxiliary losses are switched off; where it is
    negative its size counts. Where anything is not finite k is 1 and the total shows
    it. A share of the loss is not a share of the gradient: see
    `cap_gradient_share`.

    Args:
        main: The loss that is to lead.
        auxiliary: The other losses, in the same unit.
        ratio: Largest share of the total, [0, 0.999].
        weights: Of the auxiliary losses; all 1 by default.
        compare: ``"losses"`` is the formula above. ``"weights"`` is the guard as
            seed 004 wrote it, kept for comparison: it holds the sum of the
            *weights* against the main *loss*, ``k = clip(r main / sum w, 0.01, 1)``
            where ``sum w > r main > 0``. That bounds no share: with a main loss of
            0.5 and one auxiliary loss of 4 at weight 0.08 it does nothing at a ratio
            of 0.25, and the share is 0.39.

    Returns:
        The total and the factor k in [0, 1], float32 (float64 if an input is).

    Raises:
        ValueError: If ``ratio`` is outside its range, or ``weights`` is missing for
            ``compare="weights"``.

    Gradient:
        One for ``main`` and ``k w`` for the auxiliary losses; k carries none.

    Source:
        Own; ``compare="weights"`` is seed 004.

    Example:
        >>> auxiliary = jnp.array([2.0, 1.0])
        >>> total, factor = cap_contribution(jnp.array(1.0), auxiliary, 0.5)
        >>> round(float(total), 6), round(float(factor), 6)
        (2.0, 0.333333)
    """
    _check_ratio("cap_contribution", ratio)
    if compare not in ("losses", "weights"):
        raise ValueError(
            f"cap_contribution: compare must be 'losses' or 'weights', got {compare!r}."
        )
    main, weighted = widen(main), widen(auxiliary)
    if compare == "weights":
        if weights is None:
            raise ValueError(
                "cap_contribution: weights must be given to compare them, got None."
            )
        factor = _seed_factor(main, widen(weights), ratio)
    if weights is not None:
        weighted = weighted * widen(weights)
    if compare == "losses":
        factor = _factor(main, jnp.sum(jnp.abs(weighted)), ratio)
    return main + factor * jnp.sum(weighted), factor


def cap_gradient_share(
    main_norm: Float[Array, ""],
    auxiliary_norms: Float[Array, "terms"],
    ratio: float,
) -> Float[Array, ""]:
    """Return the factor that holds auxiliary gradients to ``ratio`` of the whole.

    ``min(1, r main_norm / sum(auxiliary_norms))`` with ``r = ratio / (1 - ratio)``.
    By the triangle inequality the scaled sum of the auxiliary gradients is then at
    most r times the main one. Multiply the auxiliary losses, or their gradients, by
    it; ``min`` with the factor of `cap_contribution` obeys both limits.

    Args:
        main_norm: Norm of the gradient of the main loss.
        auxiliary_norms: Norms of the gradients of the weighted auxiliary losses.
        ratio: Largest share, [0, 0.999].

    Returns:
        The factor in [0, 1], float32 (float64 if an input is); zero where
        ``main_norm`` is. One where a norm is not finite, which is for the guards.

    Raises:
        ValueError: If ``ratio`` is outside its range.

    Gradient:
        None.

    Source:
        Own.

    Example:
        >>> norms = jnp.array([3.0, 1.0])
        >>> float(cap_gradient_share(jnp.array(2.0), norms, 0.5))
        0.5
    """
    _check_ratio("cap_gradient_share", ratio)
    return _factor(widen(main_norm), jnp.sum(widen(auxiliary_norms)), ratio)
