"""Networks by name; each takes images in pixel units 0–255.

May import the core (`sign` and below) only; torchvision and timm are imported where they are used.
"""

from typing import TYPE_CHECKING

from sign_ext.lazy_import import lazy_names

if TYPE_CHECKING:
    from sign_ext.models.aleatoric import (
        AleatoricHead,
        AleatoricOutput,
        aleatoric_loss,
        sample_logits,
    )
    from sign_ext.models.names import MODEL_NAMES
    from sign_ext.models.registry import Normalize, build_model, model_options

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

lazy_names(
    __name__,
    {
        "sign_ext.models.aleatoric": [
            "AleatoricHead",
            "AleatoricOutput",
            "aleatoric_loss",
            "sample_logits",
        ],
        "sign_ext.models.names": ["MODEL_NAMES"],
        "sign_ext.models.registry": ["Normalize", "build_model", "model_options"],
    },
)
