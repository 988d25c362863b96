"""Events: sets of particles of varying size, padded, with the condition of each."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

__all__ = [
    "Events",
    "Schema",
    "batch_at",
    "check_events",
    "counts",
    "inside",
    "nonempty",
    "pack",
    "split",
    "take",
    "truncate",
]

TINY = 1e-30  # stands in for zero under a logarithm


class Events(NamedTuple):
    """A padded batch of events; what lies outside the mask is zero and means nothing.

    Attributes:
        particles: Features of every slot (events, capacity, features), float32.
        mask: Which slots hold a particle (events, capacity), bool; an event's
            particles fill its first slots.
        condition: What the event was drawn for (events, conditions), float32.
    """

    particles: Any
    mask: Any
    condition: Any


@dataclasses.dataclass(frozen=True)
class Schema:
    """What the columns of a set of events mean.

    Attributes:
        name: Name of the data, as a configuration writes it.
        title: One line that says what an event is.
        features: Name of every particle feature.
        feature_units: Unit of every feature; "" where it has none.
        conditions: Name of every condition.
        condition_units: Unit of every condition; "" where it has none.
        energy: The feature that holds a particle's energy (or transverse momentum).
        energy_is_log10: Whether that feature is the log10 of the energy.
        plane: The two features that hold a particle's place across the axis.
        radius: What the distance in that plane is called.
        jets: Whether an event is a jet of massless constituents
            (eta_rel, phi_rel, pt_rel), for which a mass is defined.
    """

    name: str
    title: str
    features: tuple[str, ...]
    feature_units: tuple[str, ...]
    conditions: tuple[str, ...]
    condition_units: tuple[str, ...]
    energy: str
    energy_is_log10: bool
    plane: tuple[str, str]
    radius: str
    jets: bool = False

    def __post_init__(self):
        for kind, names, units in (
            ("features", self.features, self.feature_units),
            ("conditions", self.conditions, self.condition_units),
        ):
            if len(names) != len(units):
                raise ValueError(
                    f"Schema: {kind} need one unit each, got {len(names)} names "
                    f"and {len(units)} units."
                )
        for role in (self.energy, *self.plane):
            if role not in self.features:
                raise ValueError(
                    f"Schema: energy and plane must be among the features "
                    f"{', '.join(self.features)}, got {role!r}."
                )

    def energies(
        self, particles: Float[np.ndarray, "*slots features"]
    ) -> Float[np.ndarray, "*slots"]:
        """Return the energy of every slot, on a linear scale.

        A log10 counts as at most 300 in size, so that a wild one is large, not inf.
        """
        column = particles[..., self.features.index(self.energy)].astype(np.float64)
        return 10.0 ** np.clip(column, -300, 300) if self.energy_is_log10 else column

    def log10_energy_sums(self, events: Events) -> Float[np.ndarray, " events"]:
        """Return log10 of the summed energy of every event; -30 for an empty one."""
        mask = np.asarray(events.mask)
        energies = np.where(mask, self.energies(np.asarray(events.particles)), 0.0)
        return np.log10(np.maximum(energies.sum(axis=1), TINY))

    def log10_radii(
        self, particles: Float[np.ndarray, "*slots features"]
    ) -> Float[np.ndarray, "*slots"]:
        """Return log10 of the distance from the axis; at least -30, also on it."""
        return np.log10(np.maximum(self.radii(particles), TINY))

    def radii(
        self, particles: Float[np.ndarray, "*slots features"]
    ) -> Float[np.ndarray, "*slots"]:
        """Return the distance from the axis of every slot."""
        first, second = (
            particles[..., self.features.index(name)].astype(np.float64)
            for name in self.plane
        )
        return np.hypot(first, second)


def counts(events: Events) -> Int[np.ndarray, " events"]:
    """Return the number of particles of every event."""
    return np.asarray(events.mask).sum(axis=1)


def inside(events: Events) -> Float[np.ndarray, "particles features"]:
    """Return the particles of all events, one a row, as float64."""
    return np.asarray(events.particles, np.float64)[np.asarray(events.mask)]


def nonempty(events: Events) -> Events:
    """Return the events that hold a particle."""
    return take(events, np.any(events.mask, axis=1))


def take(events: Events, rows: Any) -> Events:
    """Return the events at ``rows`` (indices, a slice or a mask)."""
    return Events(*(field[rows] for field in events))


def truncate(events: Events, capacity: int) -> Events:
    """Return events with their first ``capacity`` slots alone."""
    particles, mask = (
        np.ascontiguousarray(field[:, :capacity]) for field in events[:2]
    )
    return Events(particles, mask, events.condition)


def split(events: Events, sizes: Sequence[int], *, seed: int) -> tuple[Events, ...]:
    """Shuffle events and cut them into parts that share none.

    Args:
        events: What to split.
        sizes: Events of each part, each at least 1; their sum at most the number
            of events.
        seed: Seed of the shuffle.

    Returns:
        One `Events` for each size.

    Raises:
        ValueError: If a part is empty or there are too few events.

    Example:
        >>> import numpy as np
        >>> from stabjax.models.gan.events import Events, split
        >>> events = Events(np.zeros((9, 2, 3)), np.ones((9, 2), bool), np.eye(9))
        >>> train, held_out = split(events, (6, 3), seed=0)
        >>> len(train.mask), len(held_out.mask)
        (6, 3)
    """
    available = len(events.mask)
    if min(sizes, default=0) < 1 or sum(sizes) > available:
        raise ValueError(
            f"split: sizes must each be at least 1 and sum to at most {available} "
            f"events, got {tuple(sizes)}."
        )
    order = np.random.default_rng(seed).permutation(available)
    edges = np.cumsum(sizes)
    return tuple(
        take(events, np.sort(order[stop - size : stop]))
        for size, stop in zip(sizes, edges, strict=True)
    )


def batch_at(events: Events, size: int, *, seed: int, position: int) -> Events:
    """Draw batch number ``position``: a pure function of the seed and the position.

    Every epoch passes each event once, in an order of its own; a batch may begin in
    one epoch and end in the next.

    Args:
        events: What to draw from.
        size: Events of a batch, at least 1.
        seed: The run's seed.
        position: Index of the batch, from 0.

    Raises:
        ValueError: If there are no events or ``size`` is less than 1.
    """
    available = len(events.mask)
    if size < 1 or available < 1:
        raise ValueError(
            f"batch_at: size and the number of events must be at least 1, got "
            f"{size} and {available}."
        )
    places = np.arange(position * size, (position + 1) * size)
    epochs, within = places // available, places % available
    rows = np.empty(size, np.int64)
    for epoch in range(epochs[0], epochs[-1] + 1):
        here = epochs == epoch
        rows[here] = _order(available, seed, int(epoch))[within[here]]
    return take(events, rows)


def pack(
    particles: Float[np.ndarray, "total features"],
    events: Int[np.ndarray, " total"],
    order: Float[np.ndarray, " total"],
    condition: Float[np.ndarray, "events conditions"],
    *,
    capacity: int,
) -> Events:
    """Gather a flat list of particles into padded events.

    An event with more than ``capacity`` particles keeps those of highest ``order``.

    Args:
        particles: Features of every particle, of all events.
        events: Index of the event of every particle, from 0.
        order: What the particles of an event are sorted by, descending.
        condition: Condition of every event; sets the number of events.
        capacity: Slots of an event, at least 1.
    """
    rows = np.lexsort((-order, events))
    particles, events = particles[rows], events[rows]
    found = np.bincount(events, minlength=len(condition))
    slot = np.arange(len(events)) - np.repeat(np.cumsum(found) - found, found)
    kept = slot < capacity
    padded = np.zeros((len(condition), capacity, particles.shape[1]), np.float32)
    padded[events[kept], slot[kept]] = particles[kept]
    mask = np.arange(capacity) < found[:, None]
    return Events(padded, mask, condition.astype(np.float32))


def check_events(events: Events, schema: Schema) -> None:
    """Refuse events that do not have the form the schema promises.

    Raises:
        ValueError: If shapes or dtypes differ, a particle or a condition is not
            finite, a slot outside the mask is not zero, or a gap lies between an
            event's particles.
    """
    particles, mask, condition = events
    rows, capacity = mask.shape
    expected = {
        "particles": ((rows, capacity, len(schema.features)), np.float32),
        "mask": ((rows, capacity), np.bool_),
        "condition": ((rows, len(schema.conditions)), np.float32),
    }
    for (name, (shape, dtype)), value in zip(expected.items(), events, strict=True):
        if value.shape != shape or value.dtype != dtype:
            raise ValueError(
                f"{schema.name}: {name} must be {np.dtype(dtype)} of shape {shape}, "
                f"got {value.dtype} of shape {value.shape}."
            )
    faults = {
        "every particle must be finite": ~np.isfinite(particles),
        "every condition must be finite": ~np.isfinite(condition),
        "slots outside the mask must be zero": (particles != 0) & ~mask[..., None],
        "particles must fill the first slots": mask[:, 1:] & ~mask[:, :-1],
    }
    for rule, broken in faults.items():
        if broken.any():
            at = int(np.flatnonzero(broken.reshape(rows, -1).any(axis=1))[0])
            raise ValueError(f"{schema.name}: {rule}, but event {at} breaks it.")


@functools.lru_cache(maxsize=4)
def _order(length: int, seed: int, epoch: int) -> Int[np.ndarray, " length"]:
    """Return the order of one epoch; the last few are kept, as batches follow."""
    return np.random.default_rng((seed, epoch)).permutation(length)
