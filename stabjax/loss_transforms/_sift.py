"""Which samples have a gradient that is not finite, found without a gradient of each.

The gradient of a sum over some samples is finite if that of each is. So a set is tried
whole, and halved where it is not: one bad sample among `n` takes about `log2(n) + 1`
gradients, each of the cost and memory of the ordinary one. Gradients of single samples
would take one times `n` of memory, which a program reserves also while it never runs.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from stabjax.core.sums import SMALL_UNIT, sums_of_squares
from stabjax.loss_transforms._samples import Kept
from stabjax.types import Count, Flag

Gradient = list[Array]


class Sifted(NamedTuple):
    """What was found.

    Attributes:
        bad: The samples that are not finite, those known before included.
        gradient: The mean gradient of the others.
    """

    bad: Kept
    gradient: Gradient


class _Search(NamedTuple):
    """Where the search stands; samples are counted without those known as bad.

    Attributes:
        start: Samples before it are settled.
        end: The set that is being narrowed down ends here.
        mixed: Something between the two is bad.
        bad: What was found bad.
        total: Sum of the gradients that are settled, float32 at least.
    """

    start: Count
    end: Count
    mixed: Flag
    bad: Kept
    total: Gradient


def is_finite(gradient: Gradient) -> Flag:
    """Return whether every element is finite; reads the gradient once."""
    # Finite for every finite gradient, see `stabjax.core.sums`.
    return jnp.all(jnp.isfinite(sums_of_squares(gradient, SMALL_UNIT)))


def count(flags: Kept) -> Count:
    """Return how many of the flags are set."""
    return jnp.sum(flags, dtype=jnp.int32)


def sift(
    gradient_over: Callable[[Kept], Gradient],
    known: Kept,
    like: Gradient,
    limit: int,
) -> Sifted:
    """Find the samples without a finite gradient, and the mean over all others.

    Args:
        gradient_over: Gradient of the sum of the losses of some samples, over the
            number of those that are not known as bad. At least one is asked for.
        known: The samples known as bad, not all. If none is, the gradient of the
            whole batch is known not to be finite.
        like: A gradient, for shapes and dtypes.
        limit: Search no further once more than so many are bad.

    Returns:
        What was found. A sample counts as bad only if it was not finite alone.
    """
    rank = jnp.cumsum(~known, dtype=jnp.int32) - 1
    fine = count(~known)

    def unfinished(search: _Search) -> Flag:
        return (search.start < fine) & (count(search.bad) <= limit)

    def step(search: _Search) -> _Search:
        start, end, mixed, bad, total = search
        narrow = mixed & (end - start > 1)
        stop = jnp.where(narrow, start + (end - start) // 2, end)
        tried = ~known & (rank >= start) & (rank < stop)
        gradient = gradient_over(tried)
        finite = is_finite(gradient)
        alone = ~finite & (stop - start == 1)
        settled = finite | alone
        # Of a mixed set the rest holds what is bad, until one was found.
        over = alone | (settled & (stop == end))
        return _Search(
            start=jnp.where(settled, stop, start),
            end=jnp.where(over, fine, jnp.where(settled, end, stop)),
            mixed=~over & (mixed | ~finite),
            bad=bad | (tried & alone),
            total=[
                jnp.where(finite, t + g, t)
                for t, g in zip(total, gradient, strict=True)
            ],
        )

    nothing = [
        jnp.zeros_like(g, dtype=jnp.promote_types(g.dtype, jnp.float32)) for g in like
    ]
    first = _Search(jnp.zeros_like(fine), fine, ~jnp.any(known), known, nothing)
    found = jax.lax.while_loop(unfinished, step, first)
    # One where all the bad ones were known: the mean needs no second rounding.
    factor = fine.astype(jnp.float32) / count(~found.bad).astype(jnp.float32)
    gradient = [
        (factor * total).astype(g.dtype)
        for total, g in zip(found.total, like, strict=True)
    ]
    return Sifted(found.bad, gradient)
