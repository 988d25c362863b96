"""Muon bundles against their closed forms."""

import numpy as np
import pytest
from scipy import stats

from stabjax.models.gan import muon_bundles
from stabjax.models.gan.events import check_events, counts, inside
from stabjax.models.gan.muon_bundles import (
    MUON_BUNDLES,
    expected_multiplicity,
    sample_muon_bundles,
)


@pytest.mark.parametrize("minimum", [0, 1])
@pytest.mark.parametrize("capacity", [24, 4])
def test_counts_follow_the_closed_form_in_every_bin(minimum, capacity):
    events = sample_muon_bundles(5, 60_000, capacity=capacity, minimum=minimum)
    mean = expected_multiplicity(events.condition, capacity=capacity, minimum=minimum)
    number = counts(events)
    order = np.argsort(mean, kind="stable")
    for part in np.array_split(order, 12):
        excess = number[part] - mean[part]
        assert abs(excess.mean()) < 4.5 * excess.std() / np.sqrt(len(part)) + 1e-12


@pytest.mark.parametrize("minimum", [0, 1])
def test_the_closed_form_is_the_sum_over_poisson_chances(minimum):
    condition = sample_muon_bundles(1, 300, minimum=0).condition
    rate = muon_bundles._poisson_mean(condition)
    number = np.arange(400)
    chance = stats.poisson.pmf(number, rate[:, None])
    recorded = number >= minimum
    total = chance[:, recorded].sum(axis=1)
    possible = total > 0
    oracle = (chance * np.minimum(number, 24))[:, recorded].sum(axis=1)
    found = expected_multiplicity(condition, minimum=minimum)
    np.testing.assert_allclose(
        found[possible], oracle[possible] / total[possible], rtol=1e-9
    )
    assert (found[~possible] == minimum).all()
    assert possible.sum() > 200


def test_where_no_muon_can_arrive_the_mean_is_the_minimum():
    # Iron of 0.1 PeV at 5 km: a nucleon has less energy than one muon needs.
    condition = np.array([[-1.0, 0.5, np.log10(56), 5.0]], np.float32)
    assert expected_multiplicity(condition, minimum=0) == 0.0
    assert expected_multiplicity(condition, minimum=1) == 1.0


def test_counts_given_the_condition_are_poisson():
    events = sample_muon_bundles(2, 40_000, capacity=200, minimum=0)
    rate = muon_bundles._poisson_mean(events.condition)
    number = counts(events)
    some = rate > 1e-3
    # Randomized probability transform: uniform if and only if the law is right.
    below = stats.poisson.cdf(number[some] - 1, rate[some])
    at = stats.poisson.pmf(number[some], rate[some])
    uniform = below + at * np.random.default_rng(0).random(some.sum())
    assert stats.kstest(uniform, "uniform").pvalue > 1e-4


def test_energies_follow_the_spectrum_of_the_formula():
    events = sample_muon_bundles(3, 20_000, capacity=200)
    at = np.repeat(np.arange(len(events.mask)), counts(events))
    condition = events.condition[at]
    energy, _, mass, depth = muon_bundles._physical(condition)
    arriving = 10.0 ** inside(events)[:, 0] * 1e6
    offset = 0.26 / 3.6e-4
    surface = (arriving + offset) * np.exp(3.6e-4 * depth) - offset
    needed = (10.0 + offset) * np.exp(3.6e-4 * depth) - offset
    above = (surface / needed) ** -1.757 * (
        (1 - mass * surface / energy) / (1 - mass * needed / energy)
    ) ** 5.25
    assert stats.kstest(above, "uniform").pvalue > 1e-4


def test_the_distance_from_the_axis_is_momentum_over_energy_times_height():
    events = sample_muon_bundles(4, 20_000, capacity=200)
    at = np.repeat(np.arange(len(events.mask)), counts(events))
    _, cosine, _, depth = muon_bundles._physical(events.condition[at])
    particles = inside(events)
    offset = 0.26 / 3.6e-4
    surface = (10.0 ** particles[:, 0] * 1e6 + offset) * np.exp(3.6e-4 * depth) - offset
    radius = np.hypot(particles[:, 1], particles[:, 2]) * 500.0
    momentum = radius * surface * cosine / 20e3
    assert stats.kstest(momentum, stats.gamma(2.0, scale=0.2).cdf).pvalue > 1e-4
    angle = np.arctan2(particles[:, 2], particles[:, 1])
    assert stats.kstest(angle, stats.uniform(-np.pi, 2 * np.pi).cdf).pvalue > 1e-4


def test_bundles_have_the_promised_form_and_descend_in_energy():
    events = sample_muon_bundles(0, 5000)
    check_events(events, MUON_BUNDLES)
    energy = np.where(events.mask, events.particles[..., 0], -np.inf)
    assert (energy[:, 1:] <= energy[:, :-1]).all()
    assert counts(events).min() == 1
    assert inside(events)[:, 0].min() >= -5.0 - 1e-6  # ten GeV arrive


def test_empty_bundles_are_kept_when_asked_for():
    events = sample_muon_bundles(0, 5000, minimum=0)
    check_events(events, MUON_BUNDLES)
    assert 0.1 < (counts(events) == 0).mean() < 0.6


def test_the_seed_decides_every_byte():
    first, again, other = (sample_muon_bundles(seed, 500) for seed in (7, 7, 8))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, again, strict=True))
    assert first.particles.tobytes() != other.particles.tobytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1, "events": 5}, "seed at least 0"),
        ({"seed": 0, "events": 0}, "events must be at least 1"),
        ({"seed": 0, "events": 5, "capacity": 0}, "capacity must be at least 1"),
        ({"seed": 0, "events": 5, "minimum": 2}, "minimum 0 or 1"),
    ],
)
def test_arguments_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        sample_muon_bundles(**settings)
