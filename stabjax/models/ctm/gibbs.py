"""Checkerboard block-Gibbs sampling of colored grids under a Potts model.

``p(y) ~ exp(sum_i theta_i[y_i] + sum_{i~j} W[y_i, y_j])`` over neighboring cells. Cells
of one checkerboard color do not touch each other, so half a grid is redrawn at once
from its exact conditionals: no proposals, nothing to accept, every cell every sweep.

Source:
    Geman & Geman (1984); means of conditionals: Gelfand & Smith (1990).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

__all__ = ["GibbsSample", "conditionals", "interaction", "sample"]

Grids = Float[Array, "batch cells colors"]  # one-hot; all zero outside the grid


class GibbsSample(NamedTuple):
    """What a run of the sampler returns."""

    mean: Grids  # mean of conditionals over the kept sweeps (Rao-Blackwell)
    last: Grids  # the last state, one-hot


def conditionals(theta: Grids, grids: Grids, coupling: Float[Array, "c c"]) -> Grids:
    """Return the log-probability of every color of every cell given all others."""
    return jax.nn.log_softmax(theta + _field(grids, coupling), axis=-1)


def interaction(grids: Grids, coupling: Float[Array, "c c"]) -> Float[Array, " batch"]:
    """Return the Potts energy of each grid, every pair of neighbors once."""
    return 0.5 * jnp.sum(grids * _field(grids, coupling), axis=(1, 2))


def sample(
    theta: Grids,
    start: Grids,
    coupling: Float[Array, "c c"],
    valid: Bool[Array, "batch cells"],
    key: jax.Array,
    *,
    sweeps: int,
    burn_in: int,
) -> GibbsSample:
    """Run ``sweeps`` sweeps of both checkerboard halves from ``start``.

    Args:
        theta: Potential of every color of every cell.
        start: First state; the data gives contrastive divergence.
        coupling: Symmetric attraction between colors of neighbors.
        valid: Cells of the grid; others stay all zero and attract nothing.
        key: Randomness.
        sweeps: Sweeps in all, >= 1.
        burn_in: First sweeps left out of the mean, < ``sweeps``.
    """
    halves = _checkerboard(theta.shape[1])

    def half(
        grids: Grids, mean: Grids, which: Bool[np.ndarray, " cells"], key: jax.Array
    ) -> tuple[Grids, Grids]:
        log_p = conditionals(theta, grids, coupling)
        drawn = jax.random.categorical(key, log_p, axis=-1)
        moved = valid & which[None]
        fresh = jax.nn.one_hot(drawn, theta.shape[-1], dtype=theta.dtype)
        grids = jnp.where(moved[:, :, None], fresh, grids)
        return grids, jnp.where(moved[:, :, None], jnp.exp(log_p), mean)

    def sweep(carry: tuple, number_and_key: tuple) -> tuple[tuple, None]:
        grids, total = carry
        number, key = number_and_key
        even, odd = jax.random.split(key)
        mean = jnp.zeros_like(theta)
        grids, mean = half(grids, mean, halves, even)
        grids, mean = half(grids, mean, ~halves, odd)
        total = total + jnp.where(number >= burn_in, mean, 0.0)
        return (grids, total), None

    first = (start, jnp.zeros_like(theta))
    steps = (jnp.arange(sweeps), jax.random.split(key, sweeps))
    (last, total), _ = jax.lax.scan(sweep, first, steps)
    return GibbsSample(mean=total / (sweeps - burn_in), last=last)


def _side(cells: int) -> int:
    return round(cells**0.5)


def _checkerboard(cells: int) -> Bool[np.ndarray, " cells"]:
    """Return the cells whose row and column add up to an even number."""
    rows, columns = np.indices((_side(cells), _side(cells)))
    return ((rows + columns) % 2 == 0).reshape(-1)


def _field(grids: Grids, coupling: Float[Array, "c c"]) -> Grids:
    """Return what the up to four neighbors of a cell add to each of its colors."""
    side = _side(grids.shape[1])
    square = grids.reshape(len(grids), side, side, -1)
    padded = jnp.pad(square, ((0, 0), (1, 1), (1, 1), (0, 0)))
    around = (
        padded[:, :-2, 1:-1]
        + padded[:, 2:, 1:-1]
        + padded[:, 1:-1, :-2]
        + padded[:, 1:-1, 2:]
    )
    return around.reshape(grids.shape) @ coupling
