"""The events of a task: trained on, held out, and a second sample for the floors."""

import dataclasses

from stabjax.models.gan.config import Config
from stabjax.models.gan.datasets import load_dataset
from stabjax.models.gan.events import Events, Schema, counts, split
from stabjax.models.gan.metrics import Mean
from stabjax.models.gan.scaling import Scaling, fit_scaling

__all__ = ["Data", "load_data"]


@dataclasses.dataclass(frozen=True)
class Data:
    """What a task trains on and is judged by; the three samples share no event.

    Attributes:
        train: Events in the players' units.
        real: Held-out events in the data's units.
        reference: As many more, which stand in for a perfect generator.
        schema: What the columns mean.
        scaling: From the data's units to the players'.
        expected: Conditions to exact mean counts, where they are known.
        minimum: Smallest count, 0 or 1.
    """

    train: Events
    real: Events
    reference: Events
    schema: Schema
    scaling: Scaling
    expected: Mean | None
    minimum: int


def load_data(config: Config) -> Data:
    """Load, split and scale the events that ``config`` names.

    Raises:
        ImportError: If their generator is missing; the message names the extra.
        ValueError: If an option is out of range.
    """
    total = config.events + 2 * config.held_out
    found = load_dataset(
        config.source, total, seed=config.data_seed, capacity=config.capacity
    )
    sizes = (config.events, config.held_out, config.held_out)
    train, real, reference = split(found.events, sizes, seed=config.data_seed)
    scaling = fit_scaling(train, found.schema, config.features)
    return Data(
        train=scaling.scale(train),
        real=real,
        reference=reference,
        schema=found.schema,
        scaling=scaling,
        expected=found.expected,
        minimum=min(1, int(counts(found.events).min())),
    )
