"""Values that have run into a bound: what they cost, and how many there are."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from stabjax.numerics import masked_mean
from stabjax.numerics._check import check_range
from stabjax.numerics._precision import widen
from stabjax.types import Scalar


def saturation_penalty(
    x: Float[Array, "*shape"],
    *,
    limit: float,
    mask: Bool[Array, "*shape"] | None = None,
) -> Float[Array, ""]:
    """Charge for values larger than ``limit``, in proportion to the excess.

    ``mean(max(|x| - limit, 0))`` over the entries that count. Give it what goes into
    a bounded function, not what comes out: the output stops changing exactly where
    the penalty is needed, and its gradient with it.

    Args:
        x: Any floats, for example logits before a tanh.
        limit: Size that is still free, in the unit of ``x``, [1.2e-38, 1e30].
        mask: The entries that count; all by default. NaN elsewhere is inert.

    Returns:
        The penalty, float32 (float64 for a float64 input), in the unit of ``x``;
        zero if nothing counts.

    Raises:
        ValueError: If ``limit`` is outside its range.

    Gradient:
        ``sign(x) / n`` beyond the limit, whatever the excess: as alive at 1e30 as
        just outside. Zero inside and on the limit.

    Source:
        Seed 004, which penalized the output of ``6 * tanh(x / 6)`` instead; a power
        of one, so that no outlier takes the whole gradient.

    Example:
        >>> float(saturation_penalty(jnp.array([1.0, -9.0]), limit=5.0))
        2.0
    """
    check_range("saturation_penalty", "limit", limit)
    wide = widen(x)
    size = jnp.where(wide < 0, -wide, wide)
    return masked_mean(jnp.where(size <= limit, 0.0, size - limit), mask)


class Saturation(NamedTuple):
    """How much of a layer has run into its bound.

    Attributes:
        at_bound: Share of outputs at the bound, in [0, 1].
        dead: Share of entries whose output has a derivative of exactly zero, in
            [0, 1]: nothing is learned from them.
    """

    at_bound: Scalar
    dead: Scalar


def saturation(
    x: Float[Array, "*shape"],
    bound: float,
    *,
    activation: Callable[[Array], Array] | None = None,
    mask: Bool[Array, "*shape"] | None = None,
) -> Saturation:
    """Measure which share of a bounded layer is stuck.

    ``mean(|y| >= bound)`` and ``mean(dy/dx == 0)`` with ``y = activation(x)``, both
    in the dtype of ``x``: a bfloat16 tanh reaches its bound, and derivative zero,
    earlier than a float32 one. A metric for the aux of a loss, to be logged or
    watched by a guard.

    Args:
        x: What goes into the activation.
        bound: Largest size of its output, in the unit of the output,
            [1.2e-38, 1e30].
        activation: An elementwise function, ``functools.partial(soft_clamp,
            scale=5.0)`` for one; by default a clip to [-bound, bound].
        mask: The entries that count; all by default.

    Returns:
        The two shares, float32. Zero if nothing counts, NaN if an entry that counts
        is.

    Raises:
        ValueError: If ``bound`` is outside its range.

    Gradient:
        None: a metric. `saturation_penalty` is the loss for it.

    Source:
        Own.

    Example:
        >>> scores = jnp.array([0.0, 3.0, 40.0, -500.0])
        >>> at_bound, dead = saturation(scores, 1.0, activation=jnp.tanh)
        >>> float(at_bound), float(dead)
        (0.5, 0.5)
    """
    check_range("saturation", "bound", bound)
    fixed = jax.lax.stop_gradient(x)
    if activation is None:
        output, dead = fixed, jnp.abs(fixed) > bound
    else:
        output, slope = jax.jvp(activation, (fixed,), (jnp.ones_like(fixed),))
        dead = slope == 0
    known = ~jnp.isnan(fixed)

    def share(entries: Array) -> Scalar:
        counts = jnp.where(known, entries.astype(jnp.float32), jnp.nan)
        return masked_mean(counts, mask)

    return Saturation(at_bound=share(jnp.abs(output) >= bound), dead=share(dead))
