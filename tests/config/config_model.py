"""A model that can be configured and nothing else."""

from typing import Literal

import pydantic


class Part(pydantic.BaseModel, extra="forbid", frozen=True):
    depth: int = pydantic.Field(1, ge=0)


class Config(pydantic.BaseModel, extra="forbid", frozen=True):
    width: int = pydantic.Field(4, gt=0, le=64)
    rate: float = pydantic.Field(0.5, gt=0, allow_inf_nan=False)
    mode: Literal["before", "seed", "sound"] = "sound"
    flag: bool = False
    label: str | None = None
    sizes: tuple[int, ...] = (1, 2)
    part: Part = Part()

    @pydantic.model_validator(mode="after")
    def _label_needs_flag(self):
        if self.label == "boom":
            raise ZeroDivisionError("boom")
        if self.label and not self.flag:
            raise ValueError("label needs flag")
        return self
