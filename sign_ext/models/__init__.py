"""Networks by name; each takes images in pixel units 0–255.

May import the core (`sign` and below) only; torchvision and timm are imported where they are used.
"""

from sign_ext.models.aleatoric import (
    AleatoricHead,
    AleatoricOutput,
    aleatoric_loss,
    sample_logits,
)
from sign_ext.models.registry import MODEL_NAMES, Normalize, build_model, model_options

__all__ = [
    "MODEL_NAMES",
    "AleatoricHead",
    "AleatoricOutput",
    "Normalize",
    "aleatoric_loss",
    "build_model",
    "model_options",
    "sample_logits",
]
