"""The sampler of the failing system: Metropolis walks over ordinal colors.

Kept as its authors ran it, because its flaws are part of what is compared. Colors are
numbers 0..9; a walk flips one cell or swaps two; three chains of 25 steps cool from
T = 5 to 1 and keep their place between batches. The acceptance of an ordinary move
redraws ten random neighbors of the proposal and accepts only if the old state happens
to be among them, so on a large grid ordinary moves are never accepted. Every fifth
step goes to the best of ten neighbors as if that choice were reversible.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stabjax.models.ctm.data import COLORS

__all__ = ["CHAINS", "FrozenEnergy", "Walk", "frozen_energy", "start_chains", "walk"]

CHAINS = 3
_BURN_IN = 5
_KEPT = 20
_NEIGHBORS = 10
_EVERY = 5  # steps between moves to the best neighbor
_HOTTEST, _COOLING, _COLDEST = 5.0, 0.95, 1.0
_HIDDEN = 128

Chains = Int[Array, "batch chains cells"]


class FrozenEnergy(NamedTuple):
    """A random network over grids that nothing ever trains."""

    first: Float[Array, "cells hidden"]
    first_bias: Float[Array, " hidden"]
    last: Float[Array, " hidden"]


class Walk(NamedTuple):
    """What a run of the sampler returns."""

    mean: Float[Array, "batch cells"]  # over chains and the last 20 steps
    chains: Chains
    accepted: Float[Array, ""]  # share of steps that changed the grid


def frozen_energy(cells: int, key: jax.Array) -> FrozenEnergy:
    """Draw the network once; uniform weights, as its authors' framework does."""
    keys = jax.random.split(key, 3)

    def draw(key: jax.Array, shape: tuple[int, ...], inputs: int) -> Array:
        reach = inputs**-0.5
        return jax.random.uniform(key, shape, jnp.float32, -reach, reach)

    return FrozenEnergy(
        draw(keys[0], (cells, _HIDDEN), cells),
        draw(keys[1], (_HIDDEN,), cells),
        draw(keys[2], (_HIDDEN,), _HIDDEN),
    )


def start_chains(batch: int, cells: int, key: jax.Array) -> Chains:
    """Return random grids."""
    return jax.random.randint(key, (batch, CHAINS, cells), 0, COLORS, jnp.int32)


def walk(
    theta: Float[Array, "batch cells"],
    valid: Bool[Array, "batch cells"],
    chains: Chains,
    frozen: FrozenEnergy,
    key: jax.Array,
) -> Walk:
    """Run 25 steps of every chain and return the mean grid of the last 20."""
    batch = len(chains)
    steps = _BURN_IN + _KEPT
    key_moves, key_accept = jax.random.split(key)
    # All randomness at once: thousands of small draws cost more than the walk.
    draws = jax.random.uniform(
        key_moves, (steps, batch, CHAINS, _NEIGHBORS + 1, 4), jnp.float32
    )
    chance = jax.random.uniform(key_accept, (steps, batch, CHAINS), jnp.float32)

    def energy(grids: Int[Array, "batch chains n cells"]) -> Float[Array, "b c n"]:
        y = jnp.where(valid[:, None, None], grids, 0).astype(jnp.float32)
        linear = jnp.einsum("bcnd,bd->bcn", y, theta)
        hidden = jax.nn.relu(y @ frozen.first + frozen.first_bias[None, None, None, :])
        return linear + hidden @ frozen.last

    def step(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
        here, total, accepted = carry
        number, draws, chance = inputs
        heat = jnp.maximum(_HOTTEST * _COOLING ** number.astype(jnp.float32), _COLDEST)
        ordinary = _neighbors(here[:, :, None], draws[:, :, :1])
        redrawn = _neighbors(ordinary, draws[:, :, 1:])
        found = jnp.any(jnp.all(redrawn == here[:, :, None], axis=-1), axis=-1)
        around = _neighbors(here[:, :, None], draws[:, :, 1:])
        best = jnp.argmax(energy(around), axis=-1)[:, :, None, None]
        best = jnp.take_along_axis(around, best, axis=2)
        to_best = (number + 1) % _EVERY == 0
        proposal = jnp.where(to_best, best, ordinary)
        gain = energy(proposal)[:, :, 0] - energy(here[:, :, None])[:, :, 0]
        take = (found | to_best) & (jnp.log(chance) < gain / heat)
        # A swap of equal colors is no move: it would flatter the acceptance.
        moved = take & jnp.any(proposal[:, :, 0] != here, axis=-1)
        here = jnp.where(take[:, :, None], proposal[:, :, 0], here)
        total = total + jnp.where(number >= _BURN_IN, here, 0).astype(jnp.float32)
        return (here, total, accepted + jnp.mean(moved.astype(jnp.float32))), None

    first = (chains, jnp.zeros(chains.shape, jnp.float32), jnp.zeros((), jnp.float32))
    inputs = (jnp.arange(steps), draws, chance)
    (chains, total, accepted), _ = jax.lax.scan(step, first, inputs)
    return Walk(jnp.mean(total, axis=1) / _KEPT, chains, accepted / steps)


def _neighbors(
    grids: Int[Array, "batch chains one cells"], draws: Float[Array, "batch chains n 4"]
) -> Int[Array, "batch chains n cells"]:
    """Return one random neighbor per draw: a cell flipped or two cells swapped."""
    cells = grids.shape[-1]
    places = jnp.arange(cells)[None, None, None, :]
    swap = draws[..., :1] < 0.5
    one, other = (
        jnp.minimum((draws[..., n : n + 1] * cells).astype(jnp.int32), cells - 1)
        for n in (1, 2)
    )
    color = jnp.minimum((draws[..., 3:] * COLORS).astype(jnp.int32), COLORS - 1)
    grids = jnp.broadcast_to(grids, (*draws.shape[:3], cells))
    at_one = jnp.take_along_axis(grids, one, axis=-1)
    at_other = jnp.take_along_axis(grids, other, axis=-1)
    moved = jnp.where(places == one, jnp.where(swap, at_other, color), grids)
    return jnp.where(swap & (places == other), at_one, moved)
