"""What a YAML may say under ``model:`` for the particle WGAN."""

from typing import Literal

import pydantic
from pydantic import Field

__all__ = ["Config", "Setting"]

Setting = Literal["before", "seed", "sound"]


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    """The data, the two players, and one switch for every documented fix.

    A switch with three values says ``before`` for the failing original, ``seed`` for
    the fix as its authors wrote it and ``sound`` for what removes the cause. Others
    name what they choose.
    """

    # Data.
    source: Literal["muon_bundles", "showers", "jets"] = Field(
        "muon_bundles", description="analytic muon bundles, chromo showers or jets"
    )
    events: int = Field(20_000, ge=1000, description="events trained on")
    held_out: int = Field(4000, ge=500, description="real events scores are against")
    capacity: int = Field(24, ge=1, le=1024, description="slots of an event")
    data_seed: int = Field(0, ge=0, description="draws the events; not the run's seed")
    batch: int = Field(128, ge=1, description="events per step")

    # Architecture.
    generator_width: int = Field(64, ge=8, description="of an event's context")
    critic_width: int = Field(64, ge=8, description="of a particle's features")
    count_width: int = Field(64, ge=4, description="of the count head")
    event_noise: int = Field(16, ge=1, description="normal variates per event")
    particle_noise: int = Field(8, ge=1, description="normal variates per particle")

    # The seed's fixes. Its optimizer is the section `optimizer` of the run.
    critic_norm: Literal["none", "layer"] = Field(
        "layer", description="LayerNorm after every hidden layer of the critic"
    )
    initialization: Literal["torch", "xavier"] = Field(
        "xavier", description="torch's default, or Xavier normal and zero biases"
    )
    score_bound: Setting = Field(
        "sound", description="clamp at 1000, 100 tanh(score / 100), or none"
    )
    gradient_monitor: bool = Field(
        True, description="count the tensors whose gradient norm is above 100"
    )

    # What the seed left alone.
    fake_counts: Literal["predicted", "real"] = Field(
        "real", description="how many particles a fake event has in training"
    )
    count_head: Literal["log_mse", "negative_binomial"] = Field(
        "negative_binomial", description="one rounded number, or one drawn"
    )
    count_rate: float | None = Field(
        1e-3, gt=0.0, description="Adam's rate for the count head; null: as the others"
    )
    empty_event: Literal["sentinel", "zero"] = Field(
        "zero", description="what the pool of an event without particles holds"
    )
    pooling: Literal["max", "max_mean_sum"] = Field(
        "max_mean_sum", description="what the critic keeps of an event's particles"
    )
    features: Literal["seed", "standardized"] = Field(
        "standardized", description="metres over 500, or asinh and unit variance"
    )
    score_over_root_batch: bool = Field(
        False, description="divide scores by the root of the batch, as the seed does"
    )
    repair: bool = Field(
        False, description="replace numbers that are not finite, as the seed does"
    )
    gradient_penalty: Literal["none", "particle", "event"] = Field(
        "event", description="over what the slope of the critic is held at 1"
    )
    penalty_weight: float = Field(10.0, ge=0.0, description="of the gradient penalty")
    spectral_norm: bool = Field(
        False,
        description="divide each matrix of the critic by its largest singular value",
    )
    critic_steps: int = Field(
        2, ge=1, le=100, description="steps of the critic per step of the generator"
    )
    average: float = Field(
        0.99,
        ge=0.0,
        lt=1.0,
        description="memory of the averaged generator that is judged; 0: the last one",
    )
