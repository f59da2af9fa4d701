"""Networks by name; each takes images in pixel units 0–255.

May import data and the core (`sign` and below) only; torchvision, timm and transformers are
imported where they are used.
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
    from sign_ext.models.network import open_network
    from sign_ext.models.network_name import MODEL_NAMES, NetworkName, parse_network_name
    from sign_ext.models.normalize import Normalize, recorded_normalization, with_normalization
    from sign_ext.models.registry import build_model, model_options
    from sign_ext.models.weights import Weights, load_weights, read_weights

__all__ = [
    "MODEL_NAMES",
    "AleatoricHead",
    "AleatoricOutput",
    "NetworkName",
    "Normalize",
    "Weights",
    "aleatoric_loss",
    "build_model",
    "load_weights",
    "model_options",
    "open_network",
    "parse_network_name",
    "read_weights",
    "recorded_normalization",
    "sample_logits",
    "with_normalization",
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
        "sign_ext.models.network": ["open_network"],
        "sign_ext.models.network_name": ["MODEL_NAMES", "NetworkName", "parse_network_name"],
        "sign_ext.models.normalize": [
            "Normalize",
            "recorded_normalization",
            "with_normalization",
        ],
        "sign_ext.models.registry": ["build_model", "model_options"],
        "sign_ext.models.weights": ["Weights", "load_weights", "read_weights"],
    },
)
