"""The data sets by name: where the events come from, and what is known of them."""

import dataclasses
import difflib
import functools

from stabjax.models.gan.events import Events, Schema, check_events
from stabjax.models.gan.jets import JETS, load_jets
from stabjax.models.gan.metrics import Mean
from stabjax.models.gan.muon_bundles import (
    MUON_BUNDLES,
    expected_multiplicity,
    sample_muon_bundles,
)
from stabjax.models.gan.showers import SHOWERS, load_showers

__all__ = ["DATASETS", "Dataset", "load_dataset"]

# Slots that hold at least 99 % of the events of each data set as a whole.
DATASETS: dict[str, int] = {"muon_bundles": 24, "showers": 96, "jets": 50}


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Events and what is known of them.

    Attributes:
        events: The events.
        schema: What their columns mean.
        expected: Conditions to exact mean counts, where a closed form exists.
    """

    events: Events
    schema: Schema
    expected: Mean | None


def load_dataset(
    name: str,
    events: int,
    *,
    seed: int = 0,
    capacity: int | None = None,
    progress: bool = True,
) -> Dataset:
    """Return a data set by name; generators fill the cache at first use.

    Args:
        name: One of `DATASETS`.
        events: Number of events, at least 1.
        seed: Seed of the data set, at least 0.
        capacity: Slots of an event, at least 1; by default the value in `DATASETS`.
        progress: Whether to show a generation.

    Raises:
        ImportError: If the generator is missing; the message names the extra.
        ValueError: If an argument is out of range.
    """
    if name not in DATASETS:
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ValueError(
            f"load_dataset: name must be one of {', '.join(DATASETS)}, got {name!r}."
            f"{hint}"
        )
    slots = DATASETS[name] if capacity is None else capacity
    if name == "muon_bundles":
        drawn = sample_muon_bundles(seed, events, capacity=slots)
        expected = functools.partial(expected_multiplicity, capacity=slots)
        found = Dataset(drawn, MUON_BUNDLES, expected)
    else:
        load, schema = (
            (load_showers, SHOWERS) if name == "showers" else (load_jets, JETS)
        )
        drawn = load(events, seed=seed, capacity=slots, progress=progress)
        found = Dataset(drawn, schema, None)
    check_events(found.events, found.schema)
    return found
