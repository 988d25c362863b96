"""JetNet's scores against their definition, and the mass of known jets."""

import numpy as np
import pytest
from scipy import stats

from stabjax.models.gan.events import Events
from stabjax.models.gan.jet_metrics import jet_mass, jet_momentum, jet_scores


def jets(seed: int, rows: int = 300, width: float = 0.1) -> Events:
    """Make jets of up to ten constituents around the axis."""
    rng = np.random.default_rng(seed)
    mask = np.arange(10) < rng.integers(1, 11, size=(rows, 1))
    particles = rng.normal(0.0, width, (rows, 10, 3))
    particles[..., 2] = rng.random((rows, 10)) / 10 + 0.01
    particles = np.where(mask[..., None], particles, 0.0).astype(np.float32)
    return Events(particles, mask, np.zeros((rows, 1), np.float32))


def test_two_massless_constituents_have_the_mass_of_their_opening():
    particles = np.array([[[0.3, 0.2, 0.5], [-0.3, -0.2, 0.25]]], np.float32)
    pair = Events(particles, np.ones((1, 2), bool), np.zeros((1, 1), np.float32))
    # m^2 = 2 p1 p2 (cosh(d eta) - cos(d phi))
    mass = np.sqrt(2 * 0.5 * 0.25 * (np.cosh(0.6) - np.cos(0.4)))
    assert jet_mass(pair)[0] == pytest.approx(mass, rel=1e-6)
    momentum = np.hypot(0.75 * np.cos(0.2), 0.25 * np.sin(0.2))
    assert jet_momentum(pair)[0] == pytest.approx(momentum, rel=1e-6)


def test_one_massless_constituent_has_no_mass():
    single = jets(0)
    single = single._replace(mask=single.mask & (np.arange(10) < 1))
    np.testing.assert_allclose(jet_mass(single), 0.0, atol=1e-7)


def test_what_lies_outside_the_mask_does_not_count():
    some = jets(1)
    filled = np.where(some.mask[..., None], some.particles, np.float32(np.nan))
    np.testing.assert_array_equal(
        jet_mass(some), jet_mass(some._replace(particles=filled))
    )


def four_vectors(events: Events) -> list[float]:
    """Return the masses, one jet at a time."""
    masses = []
    for particles, mask in zip(events.particles, events.mask, strict=True):
        total = np.zeros(4)
        for eta, phi, pt in particles[mask].astype(np.float64):
            px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
            total += [px, py, pz, np.sqrt(px**2 + py**2 + pz**2)]
        squared = total[3] ** 2 - (total[:3] ** 2).sum()
        masses.append(np.sqrt(max(squared, 0.0)))
    return masses


def test_scores_are_bootstrap_means_over_five_batches():
    first, second = jets(2), jets(3, width=0.15)
    found = jet_scores(first, second, samples=200, seed=4)
    rng = np.random.default_rng(4)
    mass, feature = [], []
    for _ in range(5):
        a, b = (rng.choice(300, 200) for _ in range(2))
        mass.append(
            stats.wasserstein_distance(
                np.array(four_vectors(first))[a], np.array(four_vectors(second))[b]
            )
        )
        pooled = [
            np.concatenate([events.particles[row][events.mask[row]] for row in rows])
            for events, rows in ((first, a), (second, b))
        ]
        feature.append(
            np.mean(
                [
                    stats.wasserstein_distance(pooled[0][:, i], pooled[1][:, i])
                    for i in range(3)
                ]
            )
        )
    assert found["w1m"] == pytest.approx(np.mean(mass), rel=1e-6)
    assert found["w1m_spread"] == pytest.approx(np.std(mass), rel=1e-6)
    assert found["w1p"] == pytest.approx(np.mean(feature), rel=1e-6)
    assert found["w1p_spread"] == pytest.approx(np.std(feature), rel=1e-6)


def test_constituents_that_are_exactly_zero_are_left_out():
    some = jets(5)
    padded = Events(
        np.concatenate([some.particles, np.zeros((300, 5, 3), np.float32)], axis=1),
        np.concatenate([some.mask, np.ones((300, 5), bool)], axis=1),
        some.condition,
    )
    assert jet_scores(padded, some, samples=100) == jet_scores(some, some, samples=100)


def test_more_jets_come_nearer_to_themselves():
    real = jets(6, 4000)
    few, many = (jet_scores(jets(7, n), real, samples=4000)["w1m"] for n in (40, 4000))
    assert many < few / 2


def test_empty_and_broken_jets_score_inf_and_nan():
    real = jets(8)
    none = real._replace(mask=real.mask & False)
    scores = jet_scores(none, real, samples=50)
    assert scores["w1p"] == np.inf
    assert np.isnan(scores["w1p_spread"])
    assert np.isfinite(scores["w1m"])  # an empty jet has no mass
    broken = real.particles.copy()
    broken[:, 0, 0] = np.nan
    scores = jet_scores(real._replace(particles=broken), real, samples=50)
    assert np.isnan(scores["w1m"])
    assert np.isnan(scores["w1p"])


def test_wild_jets_have_a_large_finite_mass():
    wild = jets(9)
    wild = wild._replace(particles=wild.particles * np.float32(1e4))
    assert np.isfinite(jet_mass(wild)).all()
    assert jet_mass(wild).max() > 1e3
