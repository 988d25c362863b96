"""Both samplers against what they should, or are known to, do."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

from stabjax.models.ctm import metropolis
from stabjax.models.ctm.gibbs import conditionals, interaction, sample
from stabjax.models.ctm.metropolis import FrozenEnergy, start_chains

walk = jax.jit(metropolis.walk)

BONDS = [(0, 1), (2, 3), (0, 2), (1, 3)]  # of a 2 x 2 grid


def _exact(theta, coupling):
    """Marginals of the Potts model on 2 x 2 cells by enumeration, in float64."""
    cells, colors = theta.shape
    total, marginals = 0.0, np.zeros((cells, colors))
    for y in itertools.product(range(colors), repeat=cells):
        energy = sum(theta[i, c] for i, c in enumerate(y))
        energy += sum(coupling[y[i], y[j]] for i, j in BONDS)
        total += np.exp(energy)
        for i, c in enumerate(y):
            marginals[i, c] += np.exp(energy)
    return marginals / total


def _problem():
    rng = np.random.default_rng(3)
    theta = rng.normal(size=(4, 3))
    coupling = rng.normal(size=(3, 3))
    return theta, (coupling + coupling.T) / 2


def _run(theta, coupling, *, chains, sweeps, burn_in, valid=None):
    start = jax.nn.one_hot(jnp.zeros((chains, 4), jnp.int32), 3)
    valid = jnp.ones((chains, 4), bool) if valid is None else valid
    start = start * valid[:, :, None]
    theta = jnp.broadcast_to(jnp.asarray(theta, jnp.float32)[None], (chains, 4, 3))
    coupling = jnp.asarray(coupling, jnp.float32)
    return sample(
        theta, start, coupling, valid, jax.random.key(0), sweeps=sweeps, burn_in=burn_in
    )


def test_gibbs_means_match_exact_enumeration():
    theta, coupling = _problem()
    drawn = _run(theta, coupling, chains=256, sweeps=60, burn_in=10)
    np.testing.assert_allclose(
        jnp.mean(drawn.mean, axis=0), _exact(theta, coupling), atol=0.01
    )


def test_gibbs_states_match_exact_enumeration_too():
    theta, coupling = _problem()
    drawn = _run(theta, coupling, chains=4096, sweeps=12, burn_in=0)
    np.testing.assert_allclose(
        jnp.mean(drawn.last, axis=0), _exact(theta, coupling), atol=0.035
    )


def test_without_coupling_one_sweep_gives_the_exact_mean():
    theta, _ = _problem()
    drawn = _run(theta, np.zeros((3, 3)), chains=1, sweeps=1, burn_in=0)
    np.testing.assert_allclose(
        drawn.mean[0], jax.nn.softmax(jnp.asarray(theta, jnp.float32)), rtol=1e-5
    )


def test_cells_outside_the_grid_stay_empty_and_attract_nothing():
    theta, coupling = _problem()
    valid = jnp.array([[True, True, False, False]])
    drawn = _run(theta, coupling, chains=1, sweeps=3, burn_in=0, valid=valid)
    assert float(jnp.abs(drawn.last[0, 2:]).sum()) == 0.0
    assert float(jnp.abs(drawn.mean[0, 2:]).sum()) == 0.0
    np.testing.assert_allclose(drawn.mean[0, :2].sum(axis=-1), 1.0, rtol=1e-5)


def test_interaction_counts_every_bond_once():
    _, coupling = _problem()
    y = np.array([2, 0, 1, 2])
    grid = jax.nn.one_hot(jnp.asarray(y)[None], 3)
    expected = sum(coupling[y[i], y[j]] for i, j in BONDS)
    actual = interaction(grid, jnp.asarray(coupling, jnp.float32))
    np.testing.assert_allclose(actual[0], expected, rtol=1e-5)


def test_conditionals_are_ratios_of_joint_probabilities():
    theta, coupling = _problem()
    y = [2, 0, 1, 2]

    def energy(y):
        pairs = sum(coupling[y[i], y[j]] for i, j in BONDS)
        return sum(theta[i, c] for i, c in enumerate(y)) + pairs

    log_p = conditionals(
        jnp.asarray(theta, jnp.float32)[None],
        jax.nn.one_hot(jnp.asarray(y)[None], 3),
        jnp.asarray(coupling, jnp.float32),
    )
    joint = np.array([energy([y[0], c, y[2], y[3]]) for c in range(3)])
    np.testing.assert_allclose(
        log_p[0, 1], joint - np.log(np.exp(joint).sum()), rtol=1e-4, atol=1e-5
    )


def _silent(cells):
    """A frozen energy that says nothing."""
    return FrozenEnergy(jnp.zeros((cells, 128)), jnp.zeros((128,)), jnp.zeros((128,)))


def test_the_seeds_walk_keeps_its_place_and_its_colors():
    chains = start_chains(2, 9, jax.random.key(0))
    valid = jnp.ones((2, 9), bool)
    theta = jnp.full((2, 9), -3.0)
    walked = walk(theta, valid, chains, _silent(9), jax.random.key(1))
    assert walked.chains.shape == chains.shape
    assert int(walked.chains.min()) >= 0
    assert int(walked.chains.max()) <= 9
    assert float(walked.chains.sum()) < float(chains.sum())
    again = walk(theta, valid, walked.chains, _silent(9), jax.random.key(2))
    assert float(again.mean.sum()) < float(walked.mean.sum())


def test_on_a_large_grid_ordinary_moves_are_never_accepted():
    """Only the five jumps to the best of ten neighbors happen: 5 of 25 steps."""
    cells = 400
    chains = start_chains(4, cells, jax.random.key(0))
    valid = jnp.ones((4, cells), bool)
    theta = jnp.full((4, cells), 0.5)
    walked = walk(theta, valid, chains, _silent(cells), jax.random.key(1))
    assert 0.0 < float(walked.accepted) <= 5 / 25 + 1e-6
    changed = np.sum(np.asarray(walked.chains != chains), axis=-1)
    assert changed.max() <= 5 * 2
