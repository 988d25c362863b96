"""How far the parameters moved in the last step, from a sample of their elements.

The exact norm of an update costs a read of two trees, as much as a fifth of the
whole optimizer. A fixed, evenly spread sample of at most `SAMPLE_SIZE` elements,
kept from one step to the next, costs nothing that can be measured, needs nothing
of the inner optimizer, and sees what really happened to the parameters: decay,
scaling and refusal included. For trees up to that size the norm is exact.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from stabjax.core.layout import is_inexact
from stabjax.types import Scalar

SAMPLE_SIZE = 16384


def sample(params: PyTree) -> Float[Array, " sample"]:
    """Return every ``stride``-th element of each leaf, real parts in float32.

    The stride is odd, so that it does not stay in one column of a matrix whose
    width is a power of two.

    Args:
        params: Any tree of arrays.

    Returns:
        At most about `SAMPLE_SIZE` elements plus one per leaf.
    """
    stride = _stride(params)
    parts = [
        jnp.real(leaf).reshape(-1)[::stride].astype(jnp.float32)
        for leaf in jax.tree.leaves(params)
        if is_inexact(leaf) and leaf.size
    ]
    return jnp.concatenate(parts) if parts else jnp.zeros((0,), jnp.float32)


def empty_sample() -> Float[Array, " 0"]:
    """Return the sample that says: the movement is not measured."""
    return jnp.zeros((0,), jnp.float32)


def is_spread(params: PyTree) -> bool:
    """Return whether a concrete tree lies sharded over several devices.

    A strided slice of a sharded leaf would gather it, so that such trees are not
    sampled.
    """
    return any(
        isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated
        for leaf in jax.tree.leaves(params)
    )


def movement(
    params: PyTree, before: Float[Array, " sample"]
) -> tuple[Float[Array, " sample"], Scalar, Scalar]:
    """Estimate the norm of the last update and its ratio to the parameters.

    ``norm**2 ~ sum_leaves size / sampled * sum_sampled (new - old)**2``; exact for
    trees of at most `SAMPLE_SIZE` elements.

    Args:
        params: The parameters now.
        before: Their sample before the last update, or the empty sample.

    Returns:
        The sample now, the norm [parameter], and the norm over that of the
        parameters [dimensionless]. Both are NaN where nothing is sampled.
    """
    if before.shape[0] == 0:
        return before, jnp.float32(jnp.nan), jnp.float32(jnp.nan)
    now = sample(params)
    weights = jnp.asarray(_elements_represented(params))
    moved = jnp.sqrt(jnp.sum(weights * jnp.square(now - before)))
    size = jnp.sqrt(jnp.sum(weights * jnp.square(now)))
    return now, moved, moved / jnp.maximum(size, jnp.float32(1e-30))


def _stride(params: PyTree) -> int:
    total = sum(x.size for x in jax.tree.leaves(params) if is_inexact(x))
    stride = max(1, math.ceil(total / SAMPLE_SIZE))
    return stride if stride % 2 or stride == 1 else stride + 1


def _elements_represented(params: PyTree) -> np.ndarray:
    """Return for each sampled element how many elements it stands for."""
    stride = _stride(params)
    leaves: list[Any] = [x for x in jax.tree.leaves(params) if is_inexact(x) and x.size]
    sampled = [math.ceil(x.size / stride) for x in leaves]
    shares = [x.size / taken for x, taken in zip(leaves, sampled, strict=True)]
    return np.repeat(np.asarray(shares, np.float32), sampled)
