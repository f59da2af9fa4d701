"""What a stage's record must look like, for pydantic."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class RecordPart(BaseModel):
    """stage.json; what else is in it is for people."""

    model_config = ConfigDict(strict=True, extra="allow")

    stage: dict[str, Any]
    numbers: dict[str, Any]
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
