"""The stage that keeps a few images before and after SIGN, and measures what the eye sees."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sign_ext.data import ImageSet
from sign_ext.experiments.sign_stages import CHUNK, Transform, part_of
from sign_ext.experiments.stages.runner import Bench
from sign_ext.experiments.stages.stage import Stage
from sign_ext.report.samples import pick_samples, png
from sign_ext.store import load_transformed


@dataclass(frozen=True, eq=False)
class Pictures(Stage):
    """Images before and after SIGN (Figures 3 and 4), with their contrast and edges.

    Attributes:
        transform: that made the images after.
        each: how many images of each class are shown.
    """

    kind: ClassVar[str] = "pictures"
    version: ClassVar[int] = 1

    transform: Transform
    each: int = 1

    def run(self, bench: Bench, folder: Path) -> dict[str, Any]:
        """Pick the first images of each class, and measure all."""
        originals = part_of(bench.data(self.transform.phi.source), self.transform.part)
        moved = load_transformed(bench.outcome(self.transform).folder).snapshots
        samples = pick_samples(originals, moved, each=self.each)
        rows = [
            {"label": "before" if name == "p" else name, "images": [encoded(i) for i in images]}
            for name, images in samples.rows().items()
        ]
        return {
            "columns": list(samples.labels),
            "rows": rows,
            "delta_scale": samples.scale,
            "before": sight(originals.images),
            "after": {str(k): sight(images) for k, images in moved.items()},
        }


def encoded(image: np.ndarray) -> str:
    """A uint8 image (H, W, 3) as base64 of a PNG."""
    return base64.b64encode(png(image)).decode()


def sight(images: Tensor) -> dict[str, float]:
    """What "color contrasts and boundaries" are in numbers, means over images, grey levels.

    Args:
        images: uint8 or float32 (N, 3, H, W), grey levels.

    Returns:
        contrast: standard deviation over an image's positions, of its channels' mean;
        edges: mean length of the gradient of the same, by differences of neighbours.
    """
    contrast, edges = [], []
    for chunk in images.split(CHUNK):
        grey = chunk.to(torch.float32).mean(dim=1)
        contrast.append(grey.flatten(1).std(dim=1))
        across = grey[:, :-1, 1:] - grey[:, :-1, :-1]
        down = grey[:, 1:, :-1] - grey[:, :-1, :-1]
        edges.append(torch.hypot(across, down).flatten(1).mean(dim=1))
    return {
        "contrast": float(torch.cat(contrast).double().mean()),
        "edges": float(torch.cat(edges).double().mean()),
    }


def corrupted_rows(images: ImageSet, rows: dict[str, Tensor]) -> dict[str, Any]:
    """The data of a "samples" figure, from rows of images in 0–255 (clipped for showing)."""
    names = [images.class_names[label] for label in images.labels.tolist()]
    shown = {
        name: each.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        for name, each in rows.items()
    }
    return {
        "columns": names,
        "rows": [
            {"label": name, "images": [encoded(image) for image in each]}
            for name, each in shown.items()
        ],
    }
