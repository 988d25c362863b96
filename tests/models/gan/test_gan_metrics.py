"""Scores of generated events: oracles, limits, and what is said of hopeless input."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import special

from stabjax.models.gan import two_sample
from stabjax.models.gan.distances import wasserstein
from stabjax.models.gan.events import Events, split, take
from stabjax.models.gan.metrics import conditional_count_error, score_events
from stabjax.models.gan.muon_bundles import (
    MUON_BUNDLES,
    expected_multiplicity,
    sample_muon_bundles,
)
from stabjax.models.gan.two_sample import auc, classifier_auc, event_summaries

EVENTS = 1200
# Standard deviation of the AUC of a classifier that cannot tell, on half of the events.
CHANCE = math.sqrt((EVENTS + 1) / (3 * EVENTS**2))

samples = hnp.arrays(
    np.float64, st.integers(1, 12), elements=st.floats(-1e3, 1e3, width=32)
)


@pytest.fixture(scope="module")
def parts():
    """Return three disjoint sets of real events."""
    return split(sample_muon_bundles(0, 3 * EVENTS), (EVENTS, EVENTS, EVENTS), seed=0)


def score(generated, parts, expected=expected_multiplicity):
    return score_events(generated, parts[1], parts[2], MUON_BUNDLES, expected=expected)


def empty(events: Events) -> Events:
    return Events(events.particles * 0, events.mask & False, events.condition)


@given(samples, samples)
def test_wasserstein_is_the_area_between_the_quantile_functions(first, second):
    # Repeat both to one length: sorted, they are the quantile functions.
    length = math.lcm(len(first), len(second))
    long = (np.repeat(np.sort(x), length // len(x)) for x in (first, second))
    a, b = long
    assert wasserstein(first, second) == pytest.approx(np.abs(a - b).mean(), abs=1e-9)


@given(samples, samples, samples, st.floats(-100, 100, width=32))
def test_wasserstein_is_a_metric_that_translation_moves_by_itself(a, b, c, shift):
    assert wasserstein(a, a) == 0.0
    assert wasserstein(a, b) == pytest.approx(wasserstein(b, a))
    assert wasserstein(a, c) <= wasserstein(a, b) + wasserstein(b, c) + 1e-9
    assert wasserstein(a + shift, a) == pytest.approx(abs(shift), abs=1e-9)
    both = wasserstein(a + shift, b + shift)
    assert both == pytest.approx(wasserstein(a, b), abs=1e-9)


@given(samples, samples, st.integers(0, 100))
def test_a_value_that_counts_twice_is_there_twice(first, second, seed):
    rng = np.random.default_rng(seed)
    times = tuple(rng.integers(0, 4, len(x)) for x in (first, second))
    repeated = (np.repeat(x, n) for x, n in zip((first, second), times, strict=True))
    found = wasserstein(first, second, times=times)
    assert found == pytest.approx(wasserstein(*repeated), abs=1e-9)


def test_wasserstein_says_what_cannot_be_compared():
    some, none = np.ones(3), np.zeros(0)
    assert wasserstein(some, none) == np.inf
    assert np.isnan(wasserstein(some, np.array([1.0, np.nan])))
    assert np.isnan(wasserstein(np.array([np.inf]), some))


def test_real_events_score_at_their_floor(parts):
    scores = score(parts[0], parts)
    names = [name for name in scores if not name.endswith("_floor")]
    assert {f"{name}_floor" for name in names} == set(scores) - set(names)
    for name in names:
        value, floor = scores[name], scores[f"{name}_floor"]
        if name == "classifier_auc":
            assert abs(value - 0.5) < 5 * CHANCE
            assert abs(floor - 0.5) < 5 * CHANCE
        elif name == "empty":
            assert value == floor == 0.0
        else:
            assert 0.0 < value < 4.0 * floor, name
    assert scores["w1_particles"] == pytest.approx(
        np.mean([scores[f"w1_{name}"] for name in MUON_BUNDLES.features])
    )


def test_identical_events_are_at_distance_zero(parts):
    scores = score(parts[1], parts, expected=None)
    for name, value in scores.items():
        if not name.endswith("_floor") and name != "classifier_auc":
            assert value == 0.0, name


def test_a_shift_of_one_feature_moves_its_score_by_that_many_deviations(parts):
    real = parts[1]
    deviation = real.particles[..., 0][real.mask].astype(np.float64).std()
    shifted = real.particles + np.float32([0.25, 0, 0]) * real.mask[..., None]
    scores = score(real._replace(particles=shifted.astype(np.float32)), parts)
    assert scores["w1_log10_energy"] == pytest.approx(0.25 / deviation, rel=1e-5)
    assert scores["w1_log_energy_sum"] == pytest.approx(0.25, rel=1e-5)
    assert scores["w1_x"] == scores["w1_log_radius"] == 0.0


def test_a_wider_shower_moves_the_log_radius_by_its_decades(parts):
    real = parts[1]
    wide = real._replace(particles=real.particles * np.float32([1, 10, 10]))
    assert score(wide, parts)["w1_log_radius"] == pytest.approx(1.0, rel=1e-5)


def test_empty_events_score_inf_not_a_crash(parts):
    scores = score(empty(parts[1]), parts)
    for name in ("w1_x", "w1_particles", "w1_log_radius", "w1_log_energy_sum"):
        assert scores[name] == np.inf
    assert scores["w1_multiplicity"] == pytest.approx(parts[1].mask.sum(1).mean())
    assert scores["count_error"] == scores["empty"] == scores["classifier_auc"] == 1.0


def test_one_particle_that_is_not_finite_makes_scores_nan(parts):
    particles = parts[1].particles.copy()
    particles[0, 0, 0] = np.nan
    scores = score(parts[1]._replace(particles=particles), parts)
    for name in ("w1_log10_energy", "w1_particles", "w1_log_energy_sum"):
        assert np.isnan(scores[name])
    assert np.isnan(scores["classifier_auc"])
    assert scores["w1_multiplicity"] == 0.0


def test_wild_but_finite_particles_score_high_and_finite(parts):
    wild = parts[1]._replace(
        particles=parts[1].particles * np.float32(1e4) * parts[1].mask[..., None]
    )
    scores = score(wild, parts)
    assert all(np.isfinite(value) for value in scores.values())
    assert scores["w1_log10_energy"] > 1e3


def test_events_that_cannot_be_scored_are_refused(parts):
    with pytest.raises(ValueError, match="real must hold at least one particle"):
        score_events(parts[0], empty(parts[1]), parts[2], MUON_BUNDLES)
    with pytest.raises(ValueError, match="generated must hold at least one event"):
        score(take(parts[0], slice(0)), parts)


def test_the_count_error_is_the_relative_bias_of_the_mean():
    condition = np.zeros((4000, 4), np.float32)
    number = np.tile([2, 4], 2000)
    events = Events(
        np.zeros((4000, 8, 3), np.float32),
        np.arange(8) < number[:, None],
        condition,
    )
    expected = lambda condition: np.full(len(condition), 2.5)
    error = conditional_count_error(events, events, expected=expected)
    assert error == pytest.approx(0.2)
    assert conditional_count_error(events, events) == 0.0


def test_the_count_error_sees_a_wrong_dependence_on_one_condition(parts):
    real = parts[1]
    order = np.argsort(real.condition[:, 0])
    # The counts of all, given to the wrong energies: right only on average.
    mixed = real._replace(mask=real.mask[order[::-1]][np.argsort(order)])
    assert conditional_count_error(mixed, real, expected=expected_multiplicity) > 0.3
    right = conditional_count_error(real, real, expected=expected_multiplicity)
    assert right < 0.1
    assert conditional_count_error(mixed, real) > 0.3


def test_the_closed_form_is_taken_at_the_generated_events_own_conditions(parts):
    some = take(parts[0], slice(700))  # fewer than the real ones, and other ones
    error = conditional_count_error(some, parts[1], expected=expected_multiplicity)
    assert error < 0.1
    exact = conditional_count_error(
        some, parts[1], expected=lambda condition: some.mask.sum(axis=1).astype(float)
    )
    assert exact == 0.0


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
    st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_auc_is_the_chance_that_a_positive_scores_higher(positives, negatives):
    score = np.array([*positives, *negatives], np.float64)
    label = np.arange(len(score)) < len(positives)
    pairs = [
        1.0 if p > n else 0.5 if p == n else 0.0 for p in positives for n in negatives
    ]
    assert auc(score, label) == pytest.approx(np.mean(pairs))


def test_auc_of_one_class_is_not_a_number():
    assert np.isnan(auc(np.ones(3), np.ones(3, bool)))


def test_the_classifier_tells_broken_conditions_that_no_marginal_shows(parts):
    real = parts[1]
    mixed = real._replace(condition=real.condition[::-1])
    scores = score(mixed, parts, expected=None)
    assert scores["w1_particles"] == scores["w1_multiplicity"] == 0.0
    assert scores["classifier_auc"] > 0.5 + 5 * CHANCE


def test_the_classifier_tells_lost_correlations(parts):
    real = parts[1]
    rng = np.random.default_rng(0)
    # Energies dealt anew among all muons: every marginal stays as it is.
    energy = real.particles[..., 0].copy()
    energy[real.mask] = rng.permutation(energy[real.mask])
    mixed = real.particles.copy()
    mixed[..., 0] = energy
    found = classifier_auc(real._replace(particles=mixed), parts[2], MUON_BUNDLES)
    assert found > 0.5 + 5 * CHANCE


def test_summaries_of_an_empty_event_are_its_conditions(parts):
    rows = event_summaries(empty(parts[0]), MUON_BUNDLES)
    np.testing.assert_array_equal(rows[:, -4:], parts[0].condition.astype(np.float64))
    assert not rows[:, :-4].any()


def test_summaries_do_not_depend_on_the_order_of_particles(parts):
    flipped = Events(
        parts[0].particles[:, ::-1], parts[0].mask[:, ::-1], parts[0].condition
    )
    np.testing.assert_allclose(
        event_summaries(flipped, MUON_BUNDLES),
        event_summaries(parts[0], MUON_BUNDLES),
        rtol=1e-9,
        atol=1e-12,
    )


def test_the_classifier_finds_the_minimum_of_its_loss():
    rng = np.random.default_rng(0)
    design = rng.normal(size=(400, 5))
    label = rng.random(400) < special.expit(design @ [1.0, -2.0, 0.5, 0.0, 0.3])
    weights = two_sample._fit(design, label)
    chance = special.expit(design @ weights)
    slope = (chance - label) @ design + two_sample.PENALTY * weights
    assert np.abs(slope).max() < 0.05
    # Classes that a plane separates have no minimum but for the penalty.
    separated = two_sample._fit(design, design[:, 0] > 0)
    assert np.isfinite(separated).all()
    assert auc(design @ separated, design[:, 0] > 0) > 0.999
