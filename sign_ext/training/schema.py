"""What checkpoints and the states of runs must hold beside tensors, for pydantic.

Imported where they are read, because only the harness needs pydantic.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, le=2**53)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """JSON is not converted: "5" is no number. Later versions may add fields."""

    model_config = ConfigDict(strict=True, extra="allow")


class NormalizationPart(Part):
    """A network's preprocessing, (x − mean) / std of each channel, in pixel units 0–255."""

    mean: Annotated[list[Finite], Field(min_length=1)]
    std: Annotated[list[Finite], Field(min_length=1)]


class ModelPart(Part):
    """The network of a checkpoint, as `rebuild_network` takes it.

    Without `normalization` it is x / 255, as in every network of sign_ext's own; null is none.
    """

    name: str
    num_classes: Annotated[int, Field(ge=1, le=2**31)]
    image_shape: Annotated[
        list[Annotated[int, Field(ge=1, le=2**16)]], Field(min_length=3, max_length=3)
    ]
    options: dict[str, Any]
    aleatoric: bool = False
    normalization: NormalizationPart | None = None
    hf_config: dict[str, Any] | None = None
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None


class CheckpointPart(Part):
    """A checkpoint's configuration; what else is in it is the caller's."""

    model: ModelPart


class EpochPart(Part):
    """A row of the history."""

    epoch: Count
    train_loss: Finite
    train_accuracy: Finite
    validation_loss: Finite
    validation_accuracy: Finite
    steps: Count


class RunPart(Part):
    """The state of a run, without its tensors."""

    identity: dict[str, Any]
    environment: dict[str, Any]
    epoch: Count
    steps: Count
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    history: list[EpochPart]
    best_epoch: Count
    best_accuracy: Finite
