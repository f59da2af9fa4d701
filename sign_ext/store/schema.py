"""What a store's manifest and records must look like, for pydantic.

Imported where they are read, because only the harness needs pydantic.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**53)]
Positive = Annotated[int, Field(ge=1, le=2**53)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Steps = Annotated[str, Field(pattern="^[1-9][0-9]{0,15}$")]


class Part(BaseModel):
    """JSON is not converted: "5" is no number. Later versions may add fields."""

    model_config = ConfigDict(strict=True, extra="allow")


class SkippedPart(Part):
    """An image that could not be read."""

    index: Count
    key: str
    why: str


class ChangePart(Part):
    """How far SIGN moved images."""

    images: Count
    rms: NotNegative
    largest: NotNegative


class RecordPart(Part):
    """A shard's record."""

    images: Count
    bytes: Count
    sha256: Sha256
    originals: str | None = None
    skipped: list[SkippedPart]
    change: dict[Steps, ChangePart]


class ShardPart(RecordPart):
    """A shard in the manifest."""

    file: str


class TargetsPart(Part):
    """What images have in place of one class each."""

    dtype: Literal["bool", "uint8", "int16", "int32", "int64", "float32", "float64"]
    shape: Annotated[list[Count], Field(max_length=8)]


class ManifestPart(Part):
    """manifest.json."""

    complete: bool
    recipe: dict[str, Any]
    images: Positive
    shard_size: Positive
    snapshots: Annotated[list[Positive], Field(min_length=1)]
    dtype: Literal["float32", "float16", "bfloat16"]
    image_shape: Annotated[list[Positive], Field(min_length=1, max_length=4)]
    class_names: list[str]
    choices: dict[str, Any]
    shards: list[ShardPart]
    targets: TargetsPart | None = None
