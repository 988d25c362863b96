"""Showers and jets from their real generators; skipped where these are missing."""

import importlib.util
import sys

import numpy as np
import pytest

from stabjax.models.gan import jets as jets_module
from stabjax.models.gan import showers as showers_module
from stabjax.models.gan.datasets import DATASETS, load_dataset
from stabjax.models.gan.events import check_events, counts, inside
from stabjax.models.gan.jet_metrics import jet_mass, jet_momentum
from stabjax.models.gan.jets import JETS, load_jets
from stabjax.models.gan.showers import SHOWERS, load_showers


def needs(*packages: str):
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    reason = f"{' and '.join(missing)} not installed"
    return pytest.mark.skipif(bool(missing), reason=reason)


def test_a_data_set_is_found_by_name_and_a_typo_is_answered():
    found = load_dataset("muon_bundles", 50, seed=1, capacity=7)
    assert found.events.mask.shape == (50, 7)
    assert found.expected is not None
    assert found.expected(found.events.condition).max() <= 7.0
    with pytest.raises(ValueError, match="Did you mean 'showers'"):
        load_dataset("shower", 5)


@pytest.mark.parametrize("load", [load_showers, load_jets])
@pytest.mark.parametrize("capacity", [0, 129])
def test_capacity_out_of_range_is_refused(load, capacity, tmp_path):
    with pytest.raises(ValueError, match=r"capacity must be in \[1, 128\]"):
        load(5, capacity=capacity, folder=tmp_path)


@pytest.mark.parametrize(
    ("load", "package"), [(load_showers, "chromo"), (load_jets, "pythia8mc")]
)
def test_a_missing_generator_is_an_error_that_names_the_extra(
    load, package, tmp_path, monkeypatch
):
    jets_module._pythia.cache_clear()
    monkeypatch.setitem(sys.modules, package, None)
    extra = load.__name__.removeprefix("load_")
    with pytest.raises(ImportError, match=rf"{package}.*stabjax\[{extra}\]"):
        load(5, folder=tmp_path, progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def showers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("showers")
    return load_showers(200, seed=2, chunk=100, folder=folder)


@pytest.mark.slow
@needs("chromo")
class TestShowers:
    def test_interactions_have_the_promised_form(self, showers):
        check_events(showers, SHOWERS)
        assert counts(showers).min() >= 1
        particles = inside(showers)
        assert particles[:, 0].min() >= -3.0 - 1e-6  # above a TeV
        energy = np.where(showers.mask, showers.particles[..., 0], -np.inf)
        assert (energy[:, 1:] <= energy[:, :-1]).all()
        assert (np.abs(showers.condition[:, 0]) <= 0.5).all()
        assert set(np.round(10 ** showers.condition[:, 1])) == {1, 4, 14, 28, 56}

    def test_no_interaction_makes_energy(self, showers):
        total = SHOWERS.log10_energy_sums(showers)
        assert (total < showers.condition[:, 0] + 1e-3).all()

    def test_more_energy_makes_more_particles(self, showers):
        high = showers.condition[:, 0] > 0
        assert counts(showers)[high].mean() > 1.5 * counts(showers)[~high].mean()

    def test_transverse_momenta_are_those_of_hadrons_and_have_no_direction(
        self, showers
    ):
        particles = inside(showers)
        assert 0.3 < SHOWERS.radii(particles).mean() < 0.8  # GeV
        angle = np.arctan2(particles[:, 2], particles[:, 1])
        chance = 1 / np.sqrt(2 * len(angle))
        assert abs(np.cos(angle).mean()) < 5 * chance
        assert abs(np.sin(angle).mean()) < 5 * chance

    def test_a_chunk_is_a_function_of_seed_and_index(self, showers):
        other = showers_module._chunk((2, 5), 20)
        again = showers_module._chunk((2, 1), 100)
        np.testing.assert_array_equal(again.particles[:, :96], showers.particles[100:])
        assert not np.array_equal(other.particles[:, :96], showers.particles[100:120])

    def test_all_nucleons_of_a_nucleus_are_in_the_event(self):
        import chromo

        generator = showers_module._generator(chromo)
        generator.kinematics = showers_module._kinematics(chromo, 1e5, 56, 26)
        event = next(iter(generator(1)))
        *_, total = showers_module._whole_nucleus(generator)
        assert total == pytest.approx(56, rel=1e-3)
        # What chromo itself shows of it: one nucleon's interaction.
        assert event.final_state().en.sum() / 1e5 == pytest.approx(1, rel=1e-3)

    def test_an_event_that_lost_energy_is_refused(self, monkeypatch):
        import chromo

        def one_nucleon(generator):
            one = np.array([211]), np.array([1e5]), np.zeros(1), np.zeros(1), 1.0
            return one

        monkeypatch.setattr(showers_module, "_whole_nucleus", one_nucleon)
        generator = showers_module._generator(chromo)
        with pytest.raises(RuntimeError, match="energy of 56 nucleons"):
            showers_module._interaction(chromo, generator, 1e5, 56, 26)


@pytest.fixture(scope="module")
def jets_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("jets")


@pytest.fixture(scope="module")
def jets(jets_folder):
    return load_jets(50, seed=2, chunk=25, folder=jets_folder)


@pytest.mark.slow
@needs("pythia8mc", "fastjet")
class TestJets:
    def test_jets_have_the_promised_form(self, jets):
        check_events(jets, JETS)
        particles = inside(jets)
        assert particles[:, 2].min() > 0.01
        assert JETS.radii(particles).max() < 2 * 0.8
        pt = np.where(jets.mask, jets.particles[..., 2], 0.0)
        assert (pt[:, 1:] <= pt[:, :-1]).all()
        assert set(jets.condition[:, 0]) == {0.0, 1.0}
        assert counts(jets).max() < DATASETS["jets"]

    def test_constituents_add_up_to_their_jet(self, jets):
        # What is below a hundredth of the jet is left out: some 14 %.
        assert 0.75 < jet_momentum(jets).mean() < 0.97
        assert jet_momentum(jets).max() < 1.0
        assert 0.01 < np.median(jet_mass(jets)) < 0.15

    def test_a_smaller_capacity_reads_the_same_jets(self, jets, jets_folder):
        few = load_jets(50, seed=2, chunk=25, capacity=9, folder=jets_folder)
        check_events(few, JETS)
        np.testing.assert_array_equal(few.particles, jets.particles[:, :9])
        np.testing.assert_array_equal(few.mask, jets.mask[:, :9])

    def test_gluons_make_more_constituents_than_quarks(self, jets):
        gluon = jets.condition[:, 0] == 1
        assert counts(jets)[gluon].mean() > counts(jets)[~gluon].mean() + 2

    def test_a_chunk_is_a_function_of_seed_and_index(self, jets):
        jets_module._chunk((2, 7), 3)
        again = jets_module._chunk((2, 1), 25)
        np.testing.assert_array_equal(again.particles[:, :50], jets.particles[25:])


def test_a_jet_is_seen_from_its_axis():
    def momentum(pt, eta, phi):
        return [
            pt * np.cos(phi),
            pt * np.sin(phi),
            pt * np.sinh(eta),
            pt * np.cosh(eta),
        ]

    # Either side of the cut in phi, and one too soft to be kept.
    jet = np.array(
        [momentum(5.0, 1.0, 3.1), momentum(5.0, 1.0, -3.1), momentum(0.05, 1.0, 3.0)]
    )
    relative, whole = jets_module._relative(jet)
    opening = 2 * np.pi - 6.2
    assert len(relative) == 2
    assert whole == pytest.approx(10 * np.cos(opening / 2), rel=1e-2)
    np.testing.assert_allclose(
        np.abs(relative[:, 1]), opening / 2, rtol=0.05, err_msg="phi is not wrapped"
    )
    np.testing.assert_allclose(relative[:, 2], 5.0 / whole)
