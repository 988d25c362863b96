"""How far the parameters moved in the last step, from a sample of their elements.

The exact norm of an update costs a read of two trees, as much as a fifth of the
whole optimizer. A fixed, evenly spread sample of at most `SAMPLE_SIZE` elements,
kept from one step to the next, costs nothing that can be measured, needs nothing
of the inner optimizer, and sees what really happened to the parameters: decay,
scaling and refusal included. For trees of up to a thousand elements it is exact.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from stabjax.core.layout import is_inexact
from stabjax.core.sums import SMALL_UNIT, norm_of, square_in_unit
from stabjax.types import Count, Flag, Scalar

SAMPLE_SIZE = 4096
# Smaller trees are sampled more densely, down to all of a thousand elements.
_SMALLEST_SAMPLE = 1024
_SHARE = 64
# Of the optimizer state one element each of so many leaves is looked at.
_WATCHED = 16


def sample(params: PyTree, moments: PyTree = ()) -> Float[Array, " sample"]:
    """Return evenly spread rows of each leaf, real parts in float32.

    Rows, because their elements lie together in memory.

    Args:
        params: Any tree of arrays.
        moments: State of the optimizer.

    Returns:
        At most about `SAMPLE_SIZE` elements plus one per leaf, then an element each of
        some leaves of ``moments``: enough to see that it was filled with what is not
        finite. A single leaf's end with a zero that stands for no element.
    """
    parts = [
        _flat(jax.lax.slice(leaf, [0] * leaf.ndim, leaf.shape, strides))
        for leaf, strides in _strided(params)
    ]
    watched = [x for x in jax.tree.leaves(moments) if is_inexact(x) and x.size]
    for leaf in watched[:: max(1, -(-len(watched) // _WATCHED))]:
        parts.append(_flat(jax.lax.slice(leaf, [0] * leaf.ndim, [1] * leaf.ndim)))
    if len(parts) == 1:
        # XLA on CPU keeps a leaf alive that is only sliced, and copies it for the loop
        # of the branch form; not one whose slice is joined with something.
        parts.append(jnp.zeros((1,), jnp.float32))
    return jnp.concatenate(parts) if parts else jnp.zeros((0,), jnp.float32)


def _flat(part: Array) -> Array:
    return jnp.real(part).astype(jnp.float32).reshape(-1)


def empty_sample() -> Float[Array, " 0"]:
    """Return the sample that says: the movement is not measured."""
    return jnp.zeros((0,), jnp.float32)


def is_spread(params: PyTree) -> bool:
    """Return whether a concrete tree lies sharded over several devices.

    A strided slice of a sharded leaf would gather it, so that such trees are not
    sampled.
    """
    return any(
        isinstance(leaf, jax.Array)
        and not isinstance(leaf, Tracer)
        and not leaf.sharding.is_fully_replicated
        for leaf in jax.tree.leaves(params)
    )


class Movement(NamedTuple):
    """What became of the parameters in the last step, from their sample.

    Attributes:
        sample: The sample now.
        norm: Norm of the last update [parameter]; zero where nothing is sampled.
        ratio: The same over the norm of the parameters [dimensionless].
        damaged: First leaf with an element that was finite and no longer is, or -1. No
            step does that. Exact for trees of up to a thousand elements.
        moments_finite: Every element of the optimizer state that was looked at is.
    """

    sample: Float[Array, " sample"]
    norm: Scalar
    ratio: Scalar
    damaged: Count
    moments_finite: Flag


def movement(
    params: PyTree,
    before: Float[Array, " sample"],
    moments: PyTree = (),
    *,
    may_be_infinite: bool = False,
) -> Movement:
    """Estimate the norm of the last update and its ratio to the parameters.

    ``norm**2 ~ sum_leaves size / sampled * sum_sampled (new - old)**2``; exact where
    every element is sampled. What is not finite, on purpose or not, counts as zero.

    Args:
        params: The parameters now.
        before: Their sample before the last update, or the empty sample.
        moments: State of the optimizer now.
        may_be_infinite: Whether ``moments`` may be infinite on purpose.

    Returns:
        What was found.
    """
    if before.shape[0] == 0:
        zero = jnp.zeros((), jnp.float32)
        return Movement(before, zero, zero, jnp.int32(-1), jnp.ones((), jnp.bool_))
    now = sample(params, moments)
    weights = _elements_represented(params)
    weights = np.pad(weights, (0, now.size - weights.size))
    leaf_of = _leaf_of_element(params)
    places = np.arange(now.size, dtype=np.int32)
    of_moments = places >= leaf_of.size
    norm, whole = _norm(now - before, weights), _norm(now, weights)
    ratio = norm / jnp.maximum(whole, jnp.float32(1e-30))
    # Parameters come first, and may be infinite on purpose; moments are last.
    sound = jnp.isfinite(now)
    lost = ~sound & jnp.isfinite(before)
    lost |= of_moments & (jnp.isnan(now) if may_be_infinite else ~sound)
    first = jnp.min(jnp.where(lost, places, jnp.int32(now.size)))
    last = np.pad(leaf_of, (0, now.size + 1 - leaf_of.size), constant_values=-1)
    fine = (first < leaf_of.size) | (first == now.size)
    return Movement(now, norm, ratio, jnp.asarray(last)[first], fine)


def _norm(sampled: Array, weights: np.ndarray) -> Scalar:
    finite = jnp.where(jnp.isfinite(sampled), sampled, 0.0)
    # In both units: an update so large that its square overflows is the largest spike.
    sums = (jnp.sum(square_in_unit(finite, u) * weights) for u in (1.0, SMALL_UNIT))
    return norm_of(*sums)


def _strided(params: PyTree) -> list[tuple[Any, tuple[int, ...]]]:
    """Return each leaf that is sampled with the strides along its axes."""
    leaves: list[Any] = [x for x in jax.tree.leaves(params) if is_inexact(x) and x.size]
    total = sum(leaf.size for leaf in leaves)
    budget = min(max(total // _SHARE, _SMALLEST_SAMPLE), SAMPLE_SIZE)
    thin = max(1, math.ceil(total / budget))

    def strides(shape: tuple[int, ...]) -> tuple[int, ...]:
        left, found = thin, []
        for size in shape:
            found.append(min(left, size))
            left = math.ceil(left / found[-1])
        return tuple(found)

    return [(leaf, strides(leaf.shape)) for leaf in leaves]


def _elements_represented(params: PyTree) -> np.ndarray:
    """Return for each sampled element how many elements it stands for."""
    shares, sampled = [], []
    for leaf, strides in _strided(params):
        taken = _sampled(leaf.shape, strides)
        shares.append(leaf.size / taken)
        sampled.append(taken)
    return np.repeat(np.asarray(shares, np.float32), sampled)


def _leaf_of_element(params: PyTree) -> np.ndarray:
    """Return for each sampled element the index of its leaf, int32."""
    leaves: list[Any] = jax.tree.leaves(params)
    places = [i for i, leaf in enumerate(leaves) if is_inexact(leaf) and leaf.size]
    sizes = [_sampled(leaf.shape, strides) for leaf, strides in _strided(params)]
    return np.repeat(np.asarray(places, np.int32), sizes)


def _sampled(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    pairs = zip(shape, strides, strict=True)
    return math.prod(math.ceil(size / stride) for size, stride in pairs)
