"""Pictures of events: well-formed, self-contained, and honest about what is missing."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from stabjax.models.gan.events import Events, split, take
from stabjax.models.gan.jets import JETS
from stabjax.models.gan.muon_bundles import MUON_BUNDLES, sample_muon_bundles
from stabjax.models.gan.pictures import event_pictures


@pytest.fixture(scope="module")
def parts():
    return split(sample_muon_bundles(0, 200), (100, 100), seed=0)


@pytest.fixture(scope="module")
def pictures(parts):
    return event_pictures(*parts, MUON_BUNDLES)


def words(svg: str) -> list[str]:
    """Return the texts of a picture; parsing it shows that it is well formed."""
    root = ElementTree.fromstring(svg)
    return [
        "".join(each.itertext()).strip()
        for each in root.iter()
        if each.tag.endswith("text")
    ]


def test_two_pictures_are_drawn_and_each_says_what_it_shows(pictures):
    assert list(pictures) == ["events.svg", "spectra.svg"]
    for svg in pictures.values():
        assert "real" in words(svg)
        assert "generated" in words(svg)
        assert "<title>" in svg
    shown = words(pictures["spectra.svg"])
    for title in (
        "log10(E/PeV)",
        "log10 of distance from the axis",
        "particles per event",
        "log10 of summed energy",
    ):
        assert title in shown
    assert "nothing generated" not in shown


def test_pictures_load_nothing_and_take_their_colors_from_the_theme(pictures):
    for svg in pictures.values():
        links = re.findall(r'(?:href|src)="([^#"][^"]*)"|url\((?!#)', svg)
        assert links == []
        assert "@font-face" not in svg
        assert "prefers-color-scheme: dark" in svg
        drawn = svg[svg.index("</style>") :]
        assert set(re.findall(r"#[0-9a-fA-F]{6}\b", drawn)) <= {"#000000"}


def test_the_same_events_give_the_same_bytes(parts, pictures):
    assert pictures == event_pictures(*parts, MUON_BUNDLES)


def test_empty_events_are_said_to_be_empty(parts):
    real, generated = parts
    none = Events(generated.particles * 0, generated.mask & False, generated.condition)
    pictures = event_pictures(real, none, MUON_BUNDLES)
    assert words(pictures["events.svg"]).count("empty") == 4
    assert words(pictures["spectra.svg"]).count("nothing generated") == 3


def test_values_that_are_not_finite_are_counted(parts):
    real, generated = parts
    particles = generated.particles + np.float32(np.nan)
    pictures = event_pictures(
        real, generated._replace(particles=particles), MUON_BUNDLES
    )
    total = int(generated.mask.sum())
    assert words(pictures["spectra.svg"]).count(f"{total} not finite") == 2
    assert any("not finite" in text for text in words(pictures["events.svg"]))


def test_wild_values_stay_inside_the_picture(parts):
    real, generated = parts
    wild = generated._replace(particles=generated.particles * np.float32(1e6))
    for svg in event_pictures(real, wild, MUON_BUNDLES).values():
        numbers = re.findall(r"-?\d+\.\d+", svg)
        assert max(abs(float(number)) for number in numbers) < 1e4


@pytest.mark.parametrize("rows", [0, 1])
def test_few_generated_events_are_enough(rows, parts):
    real, generated = parts
    for svg in event_pictures(
        real, take(generated, slice(rows)), MUON_BUNDLES
    ).values():
        words(svg)


def test_one_real_event_is_enough(parts):
    for svg in event_pictures(
        take(parts[0], slice(1)), parts[1], MUON_BUNDLES
    ).values():
        words(svg)


def test_real_events_without_a_particle_are_refused(parts):
    none = parts[0]._replace(mask=parts[0].mask & False)
    with pytest.raises(ValueError, match="real must hold at least one particle"):
        event_pictures(none, parts[1], MUON_BUNDLES)


def test_jets_show_their_mass_and_momentum():
    rng = np.random.default_rng(0)
    mask = np.arange(6) < rng.integers(1, 7, (50, 1))
    particles = rng.normal(0, 0.1, (50, 6, 3))
    particles[..., 2] = rng.random((50, 6)) / 6
    particles = np.where(mask[..., None], particles, 0).astype(np.float32)
    jets = Events(particles, mask, np.zeros((50, 2), np.float32))
    shown = words(event_pictures(jets, jets, JETS)["spectra.svg"])
    for title in ("mass / pt of the jet", "pt of the constituents / pt", "eta rel"):
        assert title in shown
