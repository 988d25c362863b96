"""What a YAML may say under ``model:`` for the graph learner."""

from typing import Literal

import pydantic
from pydantic import Field

from stabjax.models.causal.data_config import Data
from stabjax.models.causal.structural_config import Structural

__all__ = ["Config"]


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    """The data, the decoder, the losses, and one switch for every documented fix.

    ``before`` is the failing original, ``seed`` the fix as its authors wrote it,
    ``sound`` what removes the cause.
    """

    data: Data = Field(
        default_factory=lambda: Data.model_validate({}),
        description="the table and its windows",
    )
    decoder: Literal["latent", "structural"] = Field(
        "structural",
        description="reconstruct from codes that never see the graph, as the seed "
        "does, or each node from its parents",
    )
    standardization: Literal["before", "seed", "sound", "global"] = Field(
        "sound",
        description="none; per feature with missing values as 0; per feature over "
        "observed values; or one scale for all features",
    )
    evaluation: Literal["before", "seed", "sound"] = Field(
        "sound",
        description="edges above .5; above the best of 21 thresholds, chosen on the "
        "true graph; or above a threshold fixed in advance",
    )
    threshold: float = Field(
        0.5, ge=0.0, description="score above which an edge counts (sound)"
    )
    batch: int = Field(8, ge=1, description="windows per step (latent)")

    # The latent decoder.
    latent: int = Field(16, ge=1, description="codes per encoder")
    hidden: int = Field(32, ge=1, description="hidden width of encoders and decoder")
    adjacency: Literal["top_k", "dense"] = Field(
        "top_k", description="keep the largest logits, or all"
    )
    kept_share: float = Field(
        0.1, gt=0.0, le=1.0, description="share of the adjacency's entries (top_k)"
    )

    # Its four losses and their weights [dimensionless].
    reconstruction_weight: float = Field(10.0, ge=0.0, description="lambda_recon")
    sparsity_weight: float = Field(1e-4, ge=0.0, description="lambda_sparse")
    acyclicity_weight: float = Field(1e-5, ge=0.0, description="lambda_acyclic")
    disentanglement_weight: float = Field(1e-4, ge=0.0, description="lambda_disen")
    reduction: Literal["before", "seed", "sound"] = Field(
        "sound",
        description="sums over entries; means over all entries; or the mean over "
        "observed entries",
    )
    acyclicity: Literal["seed", "sound"] = Field(
        "sound", description="tr((I + A/d)^3) - d, or tr(exp(A * A)) - d"
    )
    disentanglement: Literal["seed", "sound"] = Field(
        "sound",
        description="mean |correlation| with the diagonal of ones, or mean squared "
        "correlation across blocks",
    )

    # What is watched.
    epochs_between_evaluations: int = Field(
        2, ge=1, description="how often val_shd_at_epoch, for a plateau, has a value"
    )
    gradient_norms_every: int = Field(
        1, ge=1, description="steps between measurements of every component's gradient"
    )

    structural: Structural = Field(
        default_factory=lambda: Structural.model_validate({}),
        description="the structural decoder and its score",
    )
