"""Tiny folders of images for the commands' tests, and a network to use on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from sign_ext.models import build_model
from sign_ext.training import save_checkpoint

SIZE = 8
PARTS = {"train": 5, "validation": 2, "test": 3}


def write_images(root: Path, classes: Sequence[str], rng: np.random.Generator) -> Path:
    """ROOT/SPLIT/CLASS/NUMBER.png: random images that need no resizing."""
    for part, count in PARTS.items():
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


def write_network(out: Path, class_names: Sequence[str] | None, count: int = 0) -> Path:
    """A checkpoint with random weights; None for one that does not name its classes."""
    count = count or len(class_names or ())
    options = {"name": "basic_cnn", "num_classes": count, "image_shape": [3, SIZE, SIZE]}
    model = build_model("basic_cnn", num_classes=count, image_shape=(3, SIZE, SIZE))
    config: dict[str, Any] = {"model": {**options, "options": {}}}
    if class_names is not None:
        config["class_names"] = list(class_names)
    with torch.no_grad():  # so that every class is predicted for some images
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    save_checkpoint(out / "model.safetensors", model, config)
    return out


def read_pixels(path: Path) -> torch.Tensor:
    """float32 (1, 3, H, W), read without sign_ext."""
    with Image.open(path) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None].float()
