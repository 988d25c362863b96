"""What a YAML may say under ``model.structural:``: the score and how it is learned."""

from typing import Literal

import pydantic
from pydantic import Field

from stabjax.models.causal.order_search import OrderCost
from stabjax.models.causal.scores import NEEDS_RESIDUALS, Score

__all__ = ["Structural"]


class Structural(pydantic.BaseModel, extra="forbid", frozen=True):
    """A linear structural model, its likelihood, and the path to an acyclic graph."""

    score: Score = Field(
        "entropy",
        description="likelihood of a row: equal variances known (ev) or not (evlog), "
        "for data on one scale; or of non-Gaussian noise (logcosh, laplace, student_t, "
        "entropy), for data on any scale",
    )
    lags: int = Field(
        0, ge=0, le=50, description="earlier rows that may act on a row, for series"
    )
    sparsity: float = Field(
        0.01, ge=0.0, description="weight of the sum of |weights|, in units of score"
    )
    acyclicity: Literal["before", "seed", "sound"] = Field(
        "sound",
        description="no constraint; the seed's fixed weight 1e-5 on tr((I+A/d)^3) - d, "
        "which sees no cycle longer than 3; or the log determinant, path-following",
    )

    # The path: minimize mu (score + sparsity) + acyclicity for falling mu.
    stage_steps: int = Field(
        1000, ge=1, description="steps per stage; the last stage goes on to the end"
    )
    mu: tuple[float, ...] = Field(
        (1.0, 0.1, 0.01, 0.001), min_length=1, description="weight of the score, staged"
    )
    bounds: tuple[float, ...] = Field(
        (1.0, 0.9, 0.8, 0.7),
        min_length=1,
        description="spectral radius of the squared weights that each stage allows",
    )
    domain: Literal["before", "sound"] = Field(
        "sound",
        description="outside those bounds: refuse the step and stay outside, or return "
        "to the last state inside and halve the step",
    )

    # From weights to a graph.
    threshold: float = Field(
        0.3, ge=0.0, description="weights up to it are no edges, in the data's units"
    )
    refine: Literal["none", "order"] = Field(
        "order",
        description="keep what the gradient found, or search on from its order",
    )
    edge_penalty: float = Field(
        1.0, ge=0.0, description="gamma of the extended BIC that drops edges (refine)"
    )
    rows_per_step: int = Field(
        0, ge=0, description="rows drawn for a step; 0: all rows, every step"
    )

    @property
    def needs_rows(self) -> bool:
        """Whether the loss needs rows, or their second moments are enough."""
        return self.score in NEEDS_RESIDUALS

    @property
    def order_cost(self) -> OrderCost:
        """What the search of the order minimizes for this score."""
        return "entropy" if self.needs_rows else "variance"

    @pydantic.model_validator(mode="after")
    def _check_path(self) -> "Structural":
        if len(self.mu) != len(self.bounds):
            raise ValueError(
                f"Structural: mu and bounds must have one entry per stage, got "
                f"{len(self.mu)} and {len(self.bounds)}."
            )
        for name, values in (("mu", self.mu), ("bounds", self.bounds)):
            if not all(0.0 < value <= 1e6 for value in values):
                raise ValueError(
                    f"Structural: {name} must be in (0, 1e6], got {values!r}."
                )
        return self
