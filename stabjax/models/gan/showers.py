"""First interactions of cosmic-ray air showers, by SIBYLL 2.3d through chromo.

A nucleus of mass number A and energy E (for the whole nucleus) strikes nitrogen. An
event is the set of charged pions and kaons above 1 TeV that come out: those whose
decay may give a muon that reaches a deep detector.

chromo gives energies per nucleon, and of a nucleus shows only the last of the
interactions that SIBYLL superimposed: the event's energy is that of one nucleon,
whatever the mass. The whole nucleus is read from the Fortran block S_PLNUC instead,
and every event is held to A times the energy of a nucleon.

Terms: chromo is BSD-3-Clause. Its wheel holds compiled SIBYLL, which has no licence
text of its own in chromo beyond "distributed with the permission of the original
authors"; its authors ask that F. Riehn et al., arXiv:1912.03300, and E.-J. Ahn et al.,
Phys. Rev. D 80 (2009) 094003, be cited. stabjax ships none of it.
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

__all__ = ["SHOWERS", "load_showers"]

SHOWERS = Schema(
    name="showers",
    title="charged pions and kaons of a cosmic-ray interaction (SIBYLL 2.3d)",
    features=("log10_energy", "px", "py"),
    feature_units=("log10(E/PeV)", "GeV/c", "GeV/c"),
    conditions=("log10_primary_energy", "log10_mass"),
    condition_units=("log10(E/PeV)", "log10(A)"),
    energy="log10_energy",
    energy_is_log10=True,
    plane=("px", "py"),
    radius="transverse momentum",
)

GEV_PER_PEV = 1e6
LOG10_ENERGY = (-0.5, 0.5)  # of the nucleus
THRESHOLD = 1e3  # smallest energy of a kept particle [GeV]
NUCLEI = ((1, 1), (4, 2), (14, 7), (28, 14), (56, 26))  # (A, Z): H, He, N, Si, Fe
NITROGEN = (14, 7)
KEPT = (211, 321)  # charged pions and kaons, by |PDG number|
MODEL = "Sibyll23d"  # chromo's name of SIBYLL 2.3d
STORED = 128  # slots on disk, so that any smaller capacity is read from there
FORMAT = 1  # raised when the code below changes what the rows are


def load_showers(
    events: int,
    *,
    seed: int = 0,
    capacity: int = 96,
    chunk: int = 2000,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Events:
    """Return interactions from the cache, generating what is not there.

    The energy is drawn log-uniformly and the mass number evenly among H, He, N, Si
    and Fe; an interaction without a kept particle is not recorded. Of more than
    ``capacity`` particles, the most energetic are kept.

    Args:
        events: Number of interactions, at least 1.
        seed: Seed of the data set, at least 0.
        capacity: Slots of an event, 1 to `STORED`.
        chunk: Interactions made at a time; part of what the rows depend on.
        folder: Where data sets are kept; see `stabjax.models.dataset_cache`.
        progress: Whether to show the generation.

    Returns:
        The interactions, described by `SHOWERS`; particles descend in energy.

    Raises:
        ImportError: If chromo is missing and the interactions are not in the cache.
        ValueError: If an argument is out of range.
        RuntimeError: If an event's energy is not its nucleus'.
    """
    if not 1 <= capacity <= STORED:
        raise ValueError(
            f"load_showers: capacity must be in [1, {STORED}], got {capacity}."
        )
    recipe = Recipe(
        name="showers",
        version=installed_versions("chromo"),
        parameters={
            "format": FORMAT,
            "model": MODEL,
            "log10_energy": LOG10_ENERGY,
            "nuclei": NUCLEI,
            "threshold": THRESHOLD,
            "stored": STORED,
        },
        chunk=chunk,
        make=lambda seed, index: _chunk((seed, index), chunk)._asdict(),
    )
    stored = load_generated(recipe, events, seed=seed, folder=folder, progress=progress)
    return truncate(Events(**stored), capacity)


def _chunk(seed: tuple[int, int], events: int) -> Events:
    """Draw one chunk; the generator starts from the chunk's own random state."""
    own, theirs = np.random.SeedSequence(seed).spawn(2)
    rng = np.random.default_rng(own)
    chromo = import_generator("chromo", data="showers", extra="showers")
    generator = _generator(chromo)
    generator.random_state = np.random.PCG64(theirs).state
    found: list[np.ndarray] = []
    conditions: list[tuple[float, float]] = []
    while len(found) < events:
        exponent = float(np.float32(rng.uniform(*LOG10_ENERGY)))
        mass, charge = NUCLEI[rng.integers(len(NUCLEI))]
        energy = 10.0**exponent * GEV_PER_PEV
        particles = _interaction(chromo, generator, energy / mass, mass, charge)
        if len(particles):
            found.append(particles)
            conditions.append((exponent, np.log10(mass)))
    of = np.repeat(np.arange(events), [len(particles) for particles in found])
    flat = np.concatenate(found)
    return pack(flat, of, flat[:, 0], np.array(conditions), capacity=STORED)


@functools.lru_cache(maxsize=1)
def _generator(chromo: Any) -> Any:
    """Return SIBYLL; chromo starts it once per process."""
    start = getattr(chromo.models, MODEL)
    generator = start(_kinematics(chromo, GEV_PER_PEV, 1, 1), seed=1)
    # chromo estimates a cross section whenever the kinematics change. It is not used
    # here, and with its default of 1000 trials it takes most of the time.
    generator.glauber_trials = 1
    return generator


def _kinematics(chromo: Any, nucleon: float, mass: int, charge: int) -> Any:
    projectile = "p" if mass == 1 else (mass, charge)
    energy = nucleon * chromo.constants.GeV
    return chromo.kinematics.FixedTarget(energy, projectile, NITROGEN)


def _interaction(
    chromo: Any, generator: Any, nucleon: float, mass: int, charge: int
) -> Float[np.ndarray, "kept 3"]:
    """Return (log10 energy, p_x, p_y) of what an interaction gives above `THRESHOLD`.

    Args:
        chromo: The package.
        generator: SIBYLL.
        nucleon: Energy per nucleon [GeV].
        mass: Mass number of the nucleus.
        charge: Its charge.
    """
    generator.kinematics = _kinematics(chromo, nucleon, mass, charge)
    event = next(iter(generator(1)))
    if mass == 1:
        final = event.final_state()
        kind, energy, px, py = final.pid, final.en, final.px, final.py
        total = energy.sum() / nucleon
    else:
        kind, energy, px, py, total = _whole_nucleus(generator)
    # One nucleon's mass of the target is the only other energy there is.
    if not abs(total / mass - 1.0) < 1e-2:
        raise RuntimeError(
            f"showers: an event must hold the energy of {mass} nucleons, got "
            f"{total:.4g}; this version of chromo is not understood."
        )
    kept = np.isin(np.abs(kind), KEPT) & (energy > THRESHOLD)
    logarithm = np.log10(energy[kept] / GEV_PER_PEV)
    return np.stack([logarithm, px[kept], py[kept]], axis=1).astype(np.float64)


def _whole_nucleus(
    generator: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, float]:
    """Read all that SIBYLL made of a nucleus, in the frame of the target.

    Returns:
        PDG numbers (0 for a fragment), energies, p_x, p_y [GeV], and the summed energy
        in units of a nucleon's.
    """
    block = generator._lib.s_plnuc
    number = int(block.npa)
    momentum = np.array(block.pa[:, :number])
    code = np.array(block.lla[:number])
    (_, _, pz, energy), (_, _, _, rest) = generator.kinematics.beams
    mass = generator.kinematics.ecm
    lab = ((energy + rest) * momentum[3] + pz * momentum[2]) / mass
    nucleons = np.where(
        code > 1000, code - 1000, 1
    )  # a fragment's energy is per nucleon
    to_pdg = generator._lib.isib_pid2pdg
    names = {int(each): int(to_pdg(each)) for each in set(code[code < 1000])}
    kind = np.array([names.get(int(each), 0) for each in code])
    total = float((lab * nucleons).sum() / energy)
    return kind, lab, momentum[0], momentum[1], total
