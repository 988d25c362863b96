"""The Fenchel-Young loss of an MCMC layer: as it failed, as it was patched, sound.

All three share one surrogate, ``<theta, sg(E[Y]) - target>``, whose gradient in theta
is ``E[Y] - target``. It is bounded below only if the target lies in the convex hull
of the sampler's states. The original compared samples in {0..9}^d with z-scored
targets, outside that hull: walking theta towards the part no sample can reach lowers
the loss for ever. The patch clamped the value, which stops the gradient, not the
cause.

Source:
    Vivier-Ardisson, Blondel & Parmentier (2025), arXiv 2505.14240.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stabjax.losses import (
    fenchel_young,
    fenchel_young_bound,
    fenchel_young_bound_any_potential,
    hard_clamp,
    hull_violation,
)
from stabjax.models.ctm.data import COLORS
from stabjax.models.ctm.gibbs import conditionals, interaction, sample
from stabjax.models.ctm.metropolis import Chains, FrozenEnergy, walk
from stabjax.numerics import masked_mean, safe_norm, standardize

__all__ = [
    "CLAMP",
    "LOWER_BOUND",
    "LOWER_BOUND_FREE",
    "Outcome",
    "clamp_like_seed",
    "one_hot_loss",
    "ordinal_loss",
]

CLAMP = 10.0  # the seed's bound on the summed loss
LOWER_BOUND = fenchel_young_bound_any_potential(COLORS)  # -2.303 per cell [nats]
LOWER_BOUND_FREE = fenchel_young_bound(COLORS)  # without coupling: -1.101 [nats]

Scalar = Float[Array, ""]


class Outcome(NamedTuple):
    """The loss and everything worth knowing about it, all scalars but the chains."""

    loss: Scalar  # the surrogate
    chains: Chains | tuple[()]  # where the walks stand; () if they are not kept
    slope: Scalar  # norm of the gradient of `loss` in theta
    likelihood: Scalar  # negative log pseudo-likelihood per cell [nats]
    moment_gap: Scalar  # mean distance of E[Y] to the target
    outside_hull: Scalar  # farthest any target lies outside the hull
    theta_max: Scalar  # largest |theta|
    accepted: Scalar  # share of moves taken; Gibbs takes all


def clamp_like_seed(
    loss: Scalar, bound: float = CLAMP
) -> tuple[Scalar, Int[Array, ""]]:
    """Clamp the loss to +-``bound``; return it and how often that changed it, 0 or 1.

    Gradient: exactly zero once clamped, and a head without gradient stays where it
    is: the loss stays clamped.
    """
    return hard_clamp(loss, low=-bound, high=bound)


def ordinal_loss(
    theta: Float[Array, "batch cells 1"],
    target: Int[Array, "batch cells"],
    valid: Bool[Array, "batch cells"],
    chains: Chains,
    frozen: FrozenEnergy,
    key: jax.Array,
) -> Outcome:
    """Return the original loss: ordinal samples, z-scored target, summed.

    ``sum <theta, sg(E[Y]) - z>`` with ``z`` the standardized indicator of a color that
    is not black. Not bounded below.

    Gradient: ``E[Y] - z`` in theta; exactly zero under the seed's `clamp_like_seed`
        once ``|loss| > 10``.

    Args:
        theta: One number per cell.
        target: Colors; cells that are not ``valid`` are left out.
        valid: Cells of the grid.
        chains: Where the walks stand.
        frozen: The part of the energy nothing trains.
        key: Randomness.
    """
    theta = theta[:, :, 0]
    colored = (target > 0) & valid
    z = standardize(colored.astype(jnp.float32), valid, ddof=1)
    fixed = jax.lax.stop_gradient(theta)
    walked = walk(jnp.where(valid, fixed, 0.0), valid, chains, frozen, key)
    gap = jnp.where(valid, walked.mean - z, 0.0)
    # The cells stand where the classes do: nothing but a scalar product is meant.
    loss = fenchel_young(theta, gap, jnp.zeros_like(gap), reduction="sum")
    # Of independent ordinal cells: the frozen energy is left out.
    colors = jnp.arange(COLORS, dtype=jnp.float32)[None, None]
    log_p = jax.nn.log_softmax(fixed[:, :, None] * colors, axis=-1)
    return Outcome(
        loss=loss,
        chains=walked.chains,
        slope=safe_norm(gap),
        likelihood=masked_mean(-_at(log_p, target), valid),
        moment_gap=masked_mean(jnp.abs(gap), valid),
        outside_hull=hull_violation(z, box=(0.0, COLORS - 1.0), mask=valid),
        theta_max=jnp.max(jnp.where(valid, jnp.abs(fixed), 0.0)),
        accepted=walked.accepted,
    )


def one_hot_loss(
    theta: Float[Array, "batch cells colors"],
    coupling: Float[Array, "colors colors"],
    target: Int[Array, "batch cells"],
    valid: Bool[Array, "batch cells"],
    key: jax.Array,
    *,
    sweeps: int,
    burn_in: int,
) -> Outcome:
    """Return the sound loss: one-hot cells, Potts coupling, mean over valid cells.

    ``mean <theta, sg(mu) - y> + (phi(sg(sample)) - phi(y)) / cells``; for an exact mean
    never below -log 10 = -2.303 per cell, -1.101 without coupling.

    Gradient: ``(mu - y) / cells`` in theta, never zero before ``mu = y``.

    Args:
        theta: One number per cell and color.
        coupling: Symmetric attraction between colors of neighbors.
        target: Colors; cells that are not ``valid`` are left out.
        valid: Cells of the grid.
        key: Randomness.
        sweeps: Gibbs sweeps from the data.
        burn_in: First sweeps left out of the mean.
    """
    # The color of padding is beyond the table: its row is all zero.
    y = jax.nn.one_hot(target, theta.shape[-1], dtype=jnp.float32)
    fixed, held = jax.lax.stop_gradient((theta, coupling))
    drawn = sample(fixed, y, held, valid, key, sweeps=sweeps, burn_in=burn_in)
    cells = jnp.maximum(jnp.sum(valid), 1).astype(jnp.float32)
    gap = drawn.mean - y
    surplus = interaction(drawn.last, coupling) - interaction(y, coupling)
    loss = fenchel_young(theta, drawn.mean, y, mask=valid) + jnp.sum(surplus) / cells
    log_p = conditionals(fixed, y, held)
    return Outcome(
        loss=loss,
        chains=(),
        slope=safe_norm(gap) / cells,
        likelihood=masked_mean(-_at(log_p, target), valid),
        moment_gap=masked_mean(0.5 * jnp.sum(jnp.abs(gap), axis=-1), valid),
        outside_hull=hull_violation(y, mask=valid),
        theta_max=jnp.max(jnp.where(valid[:, :, None], jnp.abs(fixed), 0.0)),
        accepted=jnp.ones((), jnp.float32),
    )


def _at(
    log_p: Float[Array, "batch cells colors"], target: Int[Array, "batch cells"]
) -> Float[Array, "batch cells"]:
    """Pick the target's color; any color where there is none."""
    index = jnp.clip(target, 0, log_p.shape[-1] - 1)[:, :, None]
    return jnp.take_along_axis(log_p, index, axis=-1)[:, :, 0]
