"""The names of sign_ext's own networks, apart from the registry: imports no torch."""

from __future__ import annotations

MODEL_NAMES: tuple[str, ...] = (
    "basic_cnn",
    "mobilenet_v2",
    "inception_resnet_v2",
    "nasnet_mobile",
)
