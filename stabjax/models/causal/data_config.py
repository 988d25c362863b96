"""What a YAML may say under ``model.data:``: which table, and how it is cut."""

from typing import Literal

import pydantic
from pydantic import Field

from stabjax.models.causal.synthetic import GraphKind, Noise

__all__ = ["Data"]

Edge = tuple[str, str]


class Data(pydantic.BaseModel, extra="forbid", frozen=True):
    """A table of numbers, where its values are missing, and the windows cut from it."""

    source: Literal["sensors", "air_quality", "csv"] = Field(
        "sensors",
        description="synthetic sensors of a known graph, UCI Air Quality, or your file",
    )
    window: int = Field(24, ge=1, description="rows of a window")
    stride: int = Field(1, ge=1, description="rows between the starts of two windows")
    split: Literal["seed", "sound"] = Field(
        "sound",
        description="70/15/15 in order of time; sound leaves out windows that share "
        "rows with the part before",
    )
    known_edges: tuple[Edge, ...] = Field(
        (), description="pairs [cause, effect] of columns to score the graph against"
    )

    # Files.
    path: str | None = Field(
        None, description="the file; also looked for in the folder STABJAX_DATA"
    )
    columns: tuple[str, ...] = Field(
        (), description="columns to read; empty: all whose cells are numbers"
    )
    separator: str = Field(
        ",", min_length=1, max_length=1, description="between cells (csv)"
    )
    decimal: Literal[".", ","] = Field(".", description="decimal mark (csv)")
    missing: tuple[float, ...] = Field(
        (), description="numbers that stand for a missing value (csv)"
    )

    # Synthetic sensors.
    nodes: int = Field(13, ge=2, le=500, description="sensors")
    edges_per_node: int = Field(1, ge=1, le=20, description="edges divided by nodes")
    graph: GraphKind = Field("erdos_renyi", description="how pairs are connected")
    noise: Noise = Field("exponential", description="of the linear equations")
    rows: int = Field(1400, ge=50, description="rows drawn")
    missing_share: float = Field(
        0.05, ge=0.0, lt=1.0, description="cells that hold the missing code -200"
    )
    graph_seed: int | None = Field(
        None, ge=0, description="draws graph and rows; null: the run's seed"
    )

    @pydantic.model_validator(mode="after")
    def _check_source(self) -> "Data":
        if self.source == "csv" and self.path is None:
            raise ValueError("Data: path must name a file for source 'csv', got null.")
        if self.separator == self.decimal:
            raise ValueError(
                f"Data: decimal must differ from separator, got {self.decimal!r} twice."
            )
        if self.source == "sensors" and self.rows < 4 * self.window:
            raise ValueError(
                f"Data: rows must be >= {4 * self.window} (4 windows), got {self.rows}."
            )
        return self
