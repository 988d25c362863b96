"""Units that the players see, and the way back."""

import numpy as np

from stabjax.models.gan.muon_bundles import MUON_BUNDLES
from stabjax.models.gan.scaling import fit_scaling


def test_standardized_features_and_conditions_have_mean_0_and_variance_1(bundles):
    scaled = fit_scaling(bundles, MUON_BUNDLES, "standardized").scale(bundles)
    inside = scaled.particles[scaled.mask]
    np.testing.assert_allclose(inside.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(inside.std(axis=0), 1.0, rtol=1e-4)
    np.testing.assert_allclose(scaled.condition.std(axis=0), 1.0, rtol=1e-4)
    assert np.all(scaled.particles[~scaled.mask] == 0.0)
    # The asinh takes the tail in: the raw places reach beyond six of their deviations.
    raw = bundles.particles[bundles.mask][:, 1]
    assert np.abs(raw).max() > 6.0 * raw.std()
    assert np.abs(inside[:, 1]).max() < 5.0


def test_the_way_back_is_exact_and_leaves_empty_slots_at_zero(bundles):
    for how in ("seed", "standardized"):
        scaling = fit_scaling(bundles, MUON_BUNDLES, how)
        scaled = scaling.scale(bundles)
        back = scaling.restore(scaled.particles, scaled.mask)
        np.testing.assert_allclose(back, bundles.particles, rtol=1e-4, atol=1e-6)


def test_the_seeds_units_are_those_of_the_data(bundles):
    scaled = fit_scaling(bundles, MUON_BUNDLES, "seed").scale(bundles)
    np.testing.assert_array_equal(scaled.particles, bundles.particles)
    np.testing.assert_array_equal(scaled.condition, bundles.condition)


def test_a_condition_that_never_changes_is_no_division_by_zero(bundles):
    same = bundles._replace(condition=np.ones_like(bundles.condition))
    scaled = fit_scaling(same, MUON_BUNDLES, "standardized").scale(same)
    assert np.all(scaled.condition == 0.0)


def test_a_generated_value_beyond_float32_becomes_an_infinity_to_be_reported(bundles):
    scaling = fit_scaling(bundles, MUON_BUNDLES, "standardized")
    wild = np.full_like(bundles.particles, 1e6)
    back = scaling.restore(wild, bundles.mask)
    assert np.isinf(back[bundles.mask][:, 1]).all()
    assert np.all(back[~bundles.mask] == 0.0)
