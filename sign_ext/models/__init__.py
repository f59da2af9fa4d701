"""Networks by name; each takes images in pixel units 0–255.

May import data and the core (`sign` and below) only; torchvision, timm and transformers are
imported where they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

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

# Imported when they are asked for: network_name needs no torch.
_PLACES = {
    "aleatoric": ("AleatoricHead", "AleatoricOutput", "aleatoric_loss", "sample_logits"),
    "network_name": ("MODEL_NAMES", "NetworkName", "parse_network_name"),
    "normalize": ("Normalize", "recorded_normalization", "with_normalization"),
    "network": ("open_network",),
    "registry": ("build_model", "model_options"),
    "weights": ("Weights", "load_weights", "read_weights"),
}
_MODULE_OF = {name: module for module, names in _PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its module, the first time that it is used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, imported or not."""
    return sorted({*globals(), *__all__})
