r"""Muon bundles under ice: a physics-motivated toy with a closed form for its counts.

A cosmic-ray nucleus of energy E and mass number A starts an air shower; its
high-energy muons reach a detector under the ice as a bundle. The number of muons that
arrive follows the parametrization of Elbert,

    <N> = A * 14.5 GeV / (E_s cos(zenith)) * (E / (A E_s))^0.757 * (1 - A E_s / E)^5.25,

where E_s is the energy a muon needs at the surface to arrive with 10 GeV. This is not
a detector simulation: fluctuations are Poisson, the ice takes energy at a constant
rate, and muons start at one height.
"""

import numpy as np
from jaxtyping import Float
from scipy import special

from stabjax.models.gan.events import Events, Schema, pack

__all__ = ["MUON_BUNDLES", "expected_multiplicity", "sample_muon_bundles"]

MUON_BUNDLES = Schema(
    name="muon_bundles",
    title="a bundle of muons under ice (physics-motivated toy)",
    features=("log10_energy", "x", "y"),
    feature_units=("log10(E/PeV)", "500 m", "500 m"),
    conditions=("log10_primary_energy", "cos_zenith", "log10_mass", "slant_depth"),
    condition_units=("log10(E/PeV)", "", "log10(A)", "km"),
    energy="log10_energy",
    energy_is_log10=True,
    plane=("x", "y"),
    radius="distance from the axis",
)

GEV_PER_PEV = 1e6
# Elbert's parametrization: energy scale [GeV] and the two exponents.
SCALE, SPECTRUM, THRESHOLD = 14.5, 0.757, 5.25
# Energy loss dE/dX = -(a + b E): a [GeV per meter of water], b [per meter of water].
IONIZATION, RADIATION = 0.26, 3.6e-4
WATER_PER_ICE = 917.0  # meters of water per kilometer of ice
ARRIVAL = 10.0  # smallest energy at the detector [GeV]
HEIGHT = 20e3  # where muons start above the surface [m]
TRANSVERSE = (2.0, 0.2)  # Gamma law of the transverse momentum: shape, scale [GeV]
LENGTH = 500.0  # unit of x and y [m]

# What the conditions are drawn from, all but the last uniformly.
LOG10_ENERGY = (-1.0, 0.25)  # mean count 4.4; 0.4 % of bundles overfill 24 slots
COS_ZENITH = (0.5, 1.0)
VERTICAL_DEPTH = (1.5, 2.5)  # [km]
MASSES = (1, 4, 14, 28, 56)  # H, He, N, Si, Fe, equally often


def sample_muon_bundles(
    seed: int, events: int, *, capacity: int = 24, minimum: int = 1
) -> Events:
    """Draw muon bundles.

    Counts are Poisson with the mean of the module's formula. Given the count, muons
    are independent: surface energies follow the same formula's spectrum exactly, and
    the distance from the axis is p_t / E * slant height. Bundles with fewer than
    ``minimum`` muons are not recorded, as in a detector; of more than ``capacity``
    muons, the most energetic are.

    Args:
        seed: Seed of the draw, at least 0.
        events: Number of bundles, at least 1.
        capacity: Slots of an event, at least 1.
        minimum: 0 keeps bundles of which no muon arrives, 1 drops them.

    Returns:
        The bundles, described by `MUON_BUNDLES`; muons descend in energy.

    Raises:
        ValueError: If an argument is out of range.

    Source: Elbert, Proc. DUMAND Summer Workshop (1978); Gaisser, Engel, Resconi,
        Cosmic Rays and Particle Physics (2016), section 8.

    Example:
        >>> from stabjax.models.gan.muon_bundles import sample_muon_bundles
        >>> bundles = sample_muon_bundles(0, 1000)
        >>> bundles.particles.shape, int(bundles.mask.sum(1).min())
        ((1000, 24, 3), 1)
    """
    if events < 1 or seed < 0:
        raise ValueError(
            f"sample_muon_bundles: events must be at least 1 and seed at least 0, got "
            f"{events} and {seed}."
        )
    _check_counts("sample_muon_bundles", capacity, minimum)
    rng = np.random.default_rng(seed)
    condition, number = _recorded(rng, events, minimum)
    of = np.repeat(np.arange(events), number)
    surface = _surface_energy(rng, condition[of])
    particles = _arrivals(rng, condition[of], surface)
    return pack(particles, of, surface, condition, capacity=capacity)


def expected_multiplicity(
    condition: Float[np.ndarray, "events 4"], *, capacity: int = 24, minimum: int = 1
) -> Float[np.ndarray, " events"]:
    """Return the exact mean count of recorded muons given the condition.

    The mean of min(N, capacity) given N >= minimum, with N Poisson; where no muon can
    arrive it is ``minimum``, the limit.

    Args:
        condition: Conditions, in the columns of `MUON_BUNDLES`.
        capacity: As in `sample_muon_bundles`.
        minimum: As in `sample_muon_bundles`.

    Raises:
        ValueError: If ``capacity`` or ``minimum`` is out of range.
    """
    _check_counts("expected_multiplicity", capacity, minimum)
    mean = _poisson_mean(condition)
    # The sum of k p(k) over k < capacity is mean * P(N < capacity - 1).
    below = mean * (1.0 - _at_least(capacity - 1, mean))
    total = below + capacity * _at_least(capacity, mean)
    impossible = mean < 1e-280
    reached = np.where(impossible, 1.0, _at_least(minimum, mean))
    return np.where(impossible, minimum, total / reached)


def _check_counts(name: str, capacity: int, minimum: int) -> None:
    if capacity < 1 or minimum not in (0, 1):
        raise ValueError(
            f"{name}: capacity must be at least 1 and minimum 0 or 1, got "
            f"capacity {capacity} and minimum {minimum}."
        )


def _at_least(
    number: int, mean: Float[np.ndarray, " events"]
) -> Float[np.ndarray, " events"]:
    """Return P(N >= number) of a Poisson law, exact also where it is tiny."""
    return special.gammainc(number, mean) if number > 0 else np.ones_like(mean)


def _recorded(
    rng: np.random.Generator, events: int, minimum: int
) -> tuple[Float[np.ndarray, "events 4"], np.ndarray]:
    """Draw conditions and counts until ``events`` bundles are large enough."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    missing = events
    while missing > 0:
        condition = _draw_condition(rng, 2 * missing + 64)
        number = rng.poisson(_poisson_mean(condition))
        enough = np.flatnonzero(number >= minimum)[:missing]
        found.append((condition[enough], number[enough]))
        missing -= len(enough)
    conditions, numbers = zip(*found, strict=True)
    return np.concatenate(conditions), np.concatenate(numbers)


def _draw_condition(
    rng: np.random.Generator, events: int
) -> Float[np.ndarray, "events 4"]:
    energy = rng.uniform(*LOG10_ENERGY, events)
    cosine = rng.uniform(*COS_ZENITH, events)
    mass = np.log10(rng.choice(MASSES, events))
    depth = rng.uniform(*VERTICAL_DEPTH, events) / cosine
    columns = np.stack([energy, cosine, mass, depth], axis=1)
    # What the events carry is float32; counts and muons are drawn for just that.
    return columns.astype(np.float32).astype(np.float64)


def _poisson_mean(
    condition: Float[np.ndarray, "events 4"],
) -> Float[np.ndarray, " events"]:
    energy, cosine, mass, depth = _physical(condition)
    needed = _needed_energy(depth)
    share = mass * needed / energy  # of a nucleon's energy that one muon needs
    possible = np.maximum(1.0 - share, 0.0) ** THRESHOLD
    return mass * SCALE / (needed * cosine) * share**-SPECTRUM * possible


def _surface_energy(
    rng: np.random.Generator, condition: Float[np.ndarray, "muons 4"]
) -> Float[np.ndarray, " muons"]:
    """Draw energies at the surface [GeV] with Elbert's spectrum above what is needed.

    The share of muons above e is (e/E_s)^-1.757 times a power of 1 - A e / E: the
    smaller of one draw from each factor has exactly their product as its law.
    """
    energy, _, mass, depth = _physical(condition)
    needed = _needed_energy(depth)
    first, second = 1.0 - rng.random((2, len(condition)))
    power = needed * first ** (-1.0 / (1.0 + SPECTRUM))
    nucleon = energy / mass
    rest = (1.0 - needed / nucleon) * second ** (1.0 / THRESHOLD)
    return np.minimum(power, nucleon * (1.0 - rest))


def _arrivals(
    rng: np.random.Generator,
    condition: Float[np.ndarray, "muons 4"],
    surface: Float[np.ndarray, " muons"],
) -> Float[np.ndarray, "muons 3"]:
    """Carry muons down to the detector and away from the axis."""
    _, cosine, _, depth = _physical(condition)
    offset = IONIZATION / RADIATION
    arriving = (surface + offset) * np.exp(-RADIATION * depth) - offset
    arriving = np.maximum(arriving, ARRIVAL)  # but for rounding it is at least that
    shape, scale = TRANSVERSE
    momentum = rng.gamma(shape, scale, len(surface))
    radius = momentum / surface * HEIGHT / cosine / LENGTH
    angle = rng.uniform(0.0, 2.0 * np.pi, len(surface))
    logarithm = np.log10(arriving / GEV_PER_PEV)
    return np.stack([logarithm, radius * np.cos(angle), radius * np.sin(angle)], axis=1)


def _needed_energy(depth: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Return the surface energy [GeV] that arrives with `ARRIVAL` at a slant depth."""
    offset = IONIZATION / RADIATION
    return (ARRIVAL + offset) * np.exp(RADIATION * depth) - offset


def _physical(
    condition: Float[np.ndarray, "n 4"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return energy [GeV], cos(zenith), mass number, slant depth [m of water]."""
    energy, cosine, mass, depth = condition.astype(np.float64).T
    return 10.0**energy * GEV_PER_PEV, cosine, 10.0**mass, depth * WATER_PER_ICE
