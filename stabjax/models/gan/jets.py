"""Jets of proton-proton collisions at 13 TeV, by PYTHIA 8 and FastJet.

Two hard partons of p_T between 800 and 1600 GeV; their visible final particles are
clustered with anti-k_t, R = 0.8. An event is one jet: its massless constituents with
more than a hundredth of its p_T, in the coordinates of JetNet,

    eta_rel = eta - eta_jet,   phi_rel = phi - phi_jet,   pt_rel = p_T / p_T_jet.

Terms: PYTHIA 8 (pythia8mc) is GPL-2.0-or-later and asks to be cited: C. Bierlich et
al., arXiv:2203.11601. The Python package fastjet is BSD-3-Clause, the FastJet inside
it GPL-2.0-or-later: M. Cacciari, G. P. Salam, G. Soyez, arXiv:1111.6097. stabjax
ships neither; what they generate is data, not a derived work of them.
"""

import functools
import os
from typing import Any

import numpy as np
from jaxtyping import Float

from stabjax.models.dataset_cache import (
    Recipe,
    import_generator,
    installed_versions,
    load_generated,
)
from stabjax.models.gan.events import Events, Schema, pack, truncate

__all__ = ["JETS", "load_jets"]

JETS = Schema(
    name="jets",
    title="constituents of an anti-kt R=0.8 jet of a quark or a gluon (PYTHIA 8)",
    features=("eta_rel", "phi_rel", "pt_rel"),
    feature_units=("", "", "pt of the jet"),
    conditions=("gluon", "log10_pt"),
    condition_units=("", "log10(pt/TeV)"),
    energy="pt_rel",
    energy_is_log10=False,
    plane=("eta_rel", "phi_rel"),
    radius="distance from the axis",
    jets=True,
)

RADIUS = 0.8
SOFTEST = 0.01  # smallest pt_rel
LOWEST = 400.0  # smallest p_T of a jet [GeV]
WIDEST = 5.0  # largest |eta| of a clustered particle
GLUON = 21  # PDG number
COLLISIONS = (
    "Beams:eCM = 13000.",
    "HardQCD:all = on",
    "PhaseSpace:pTHatMin = 800.",
    "PhaseSpace:pTHatMax = 1600.",
)
STORED = 128  # slots on disk, so that any smaller capacity is read from there
FORMAT = 1  # raised when the code below changes what the rows are


def load_jets(
    events: int,
    *,
    seed: int = 0,
    capacity: int = 50,
    chunk: int = 500,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Events:
    """Return jets from the cache, generating what is not there.

    Of every collision, the one or two jets nearest the hard partons (within R) are
    kept, each labeled by its parton. Of more than ``capacity`` constituents, those of
    highest p_T are.

    Args:
        events: Number of jets, at least 1.
        seed: Seed of the data set, at least 0.
        capacity: Slots of a jet, 1 to `STORED`.
        chunk: Jets made at a time; part of what the rows depend on.
        folder: Where data sets are kept; see `stabjax.models.dataset_cache`.
        progress: Whether to show the generation.

    Returns:
        The jets, described by `JETS`; constituents descend in p_T.

    Raises:
        ImportError: If pythia8mc or fastjet is missing and the jets are not in the
            cache.
        ValueError: If an argument is out of range.
        RuntimeError: If PYTHIA refuses a setting or gives up.
    """
    if not 1 <= capacity <= STORED:
        raise ValueError(
            f"load_jets: capacity must be in [1, {STORED}], got {capacity}."
        )
    recipe = Recipe(
        name="jets",
        version=installed_versions("pythia8mc", "fastjet"),
        parameters={
            "format": FORMAT,
            "collisions": COLLISIONS,
            "radius": RADIUS,
            "softest": SOFTEST,
            "lowest": LOWEST,
            "widest": WIDEST,
            "stored": STORED,
        },
        chunk=chunk,
        make=lambda seed, index: _chunk((seed, index), chunk)._asdict(),
    )
    stored = load_generated(recipe, events, seed=seed, folder=folder, progress=progress)
    return truncate(Events(**stored), capacity)


def _chunk(seed: tuple[int, int], jets: int) -> Events:
    """Draw one chunk; PYTHIA's random numbers start from the chunk's own seed."""
    pythia = _pythia()
    # PYTHIA takes seeds from 1 to 900,000,000.
    start = np.random.default_rng(seed).integers(1, 900_000_001)
    pythia.rndm.init(int(start))
    found: list[tuple[np.ndarray, float, float]] = []
    while len(found) < jets:
        found += _jets_of_collision(pythia)
    constituents, gluon, momentum = zip(*found[:jets], strict=True)
    of = np.repeat(np.arange(jets), [len(each) for each in constituents])
    flat = np.concatenate(constituents)
    condition = np.stack([gluon, np.log10(np.array(momentum) / 1000.0)], axis=1)
    return pack(flat, of, flat[:, 2], condition, capacity=STORED)


@functools.lru_cache(maxsize=1)
def _pythia() -> Any:
    """Return PYTHIA, started; that takes most of a second."""
    pythia8 = import_generator("pythia8mc", data="jets", extra="jets")
    pythia = pythia8.Pythia("", False)
    settings = ("Print:quiet = on", "Random:setSeed = on", *COLLISIONS)
    refused = [each for each in settings if not pythia.readString(each)]
    if refused or not pythia.init():
        raise RuntimeError(f"jets: PYTHIA does not start; refused: {refused}.")
    return pythia


def _jets_of_collision(pythia: Any) -> list[tuple[np.ndarray, float, float]]:
    """Return (constituents, 1 if of a gluon, p_T [GeV]) of each jet with a parton."""
    for _ in range(100):
        if pythia.next():
            break
    else:
        raise RuntimeError("jets: PYTHIA failed on 100 collisions in a row.")
    event = pythia.event
    momenta = [
        (particle.px(), particle.py(), particle.pz(), particle.e())
        for particle in event
        if particle.isFinal() and particle.isVisible() and abs(particle.eta()) < WIDEST
    ]
    jets = _cluster(np.array(momenta))
    found = []
    for parton in (event[5], event[6]):  # the two that leave the hard scattering
        place = np.array([parton.eta(), parton.phi()])
        far = [_distance(jet, place) for jet in jets]
        if far and min(far) < RADIUS:
            jet = jets.pop(int(np.argmin(far)))
            relative, momentum = _relative(jet)
            found.append((relative, float(parton.id() == GLUON), momentum))
    return found


def _cluster(
    momenta: Float[np.ndarray, "particles 4"],
) -> list[Float[np.ndarray, "constituents 4"]]:
    """Return (p_x, p_y, p_z, E) of the constituents of every jet above `LOWEST`."""
    fastjet = import_generator("fastjet", data="jets", extra="jets")
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    particles = []
    for index, momentum in enumerate(momenta):
        particle = fastjet.PseudoJet(*momentum.tolist())
        particle.set_user_index(index)
        particles.append(particle)
    sequence = fastjet.ClusterSequence(particles, definition)
    return [
        momenta[[part.user_index() for part in jet.constituents()]]
        for jet in sequence.inclusive_jets(LOWEST)
    ]


def _relative(
    jet: Float[np.ndarray, "constituents 4"],
) -> tuple[Float[np.ndarray, "kept 3"], float]:
    """Return a jet's constituents in its own coordinates, and its p_T."""
    eta, phi, momentum = _coordinates(jet)
    axis_eta, axis_phi, whole = (float(x) for x in _coordinates(jet.sum(axis=0)))
    turned = (phi - axis_phi + np.pi) % (2 * np.pi) - np.pi
    relative = np.stack([eta - axis_eta, turned, momentum / whole], axis=1)
    return relative[relative[:, 2] > SOFTEST], whole


def _distance(
    jet: Float[np.ndarray, "constituents 4"], place: Float[np.ndarray, " 2"]
) -> float:
    """Return the distance in (eta, phi) between a jet's axis and a place."""
    eta, phi, _ = _coordinates(jet.sum(axis=0))
    turned = (phi - place[1] + np.pi) % (2 * np.pi) - np.pi
    return float(np.hypot(eta - place[0], turned))


def _coordinates(
    momentum: Float[np.ndarray, "*some 4"],
) -> Float[np.ndarray, "3 *some"]:
    """Return pseudorapidity, azimuth and transverse momentum, one a row."""
    px, py, pz, _ = np.moveaxis(momentum, -1, 0)
    transverse = np.hypot(px, py)
    return np.stack([np.arcsinh(pz / transverse), np.arctan2(py, px), transverse])
