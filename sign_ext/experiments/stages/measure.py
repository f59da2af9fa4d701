"""The stages that measure a trained network."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from sign_ext.data import ImageSet, load_ood
from sign_ext.evaluation import evaluate, predict
from sign_ext.experiments.stages.networks import (
    Train,
    TrainOnDelta,
    Transform,
    delta_set,
    evaluation_flops,
    part_of,
    trained,
)
from sign_ext.experiments.stages.runner import RunContext
from sign_ext.experiments.stages.stage import Stage
from sign_ext.report.samples import pick_samples, png
from sign_ext.store import load_transformed

SEED = 0  # of corruptions and of Monte Carlo samples: every network meets the same ones
CHUNK = 4096  # images at a time where a whole set in float32 would not fit


@dataclass(frozen=True, eq=False)
class Classify(Stage):
    """Accuracy on the test images, clean and corrupted (Tables 1, 4 and 5).

    Attributes:
        network: that is measured.
        images: test images, for estimates.
        draws: how often each corruption is drawn.
        pixels: turned off, of each image.
        sigma: of the noise, grey levels.
    """

    kind: ClassVar[str] = "classify"
    version: ClassVar[int] = 1

    network: Train
    images: int
    draws: int
    pixels: int = 50
    sigma: float = 10.0

    def title(self) -> str:
        """Name the network."""
        return f"evaluate: {self.network.title()}"

    def flops(self) -> float:
        """A forward pass for each draw of either corruption, and one without."""
        return evaluation_flops(self.network, self.images * (1 + 2 * self.draws))

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Evaluate."""
        found = evaluate(
            trained(context.outcome(self.network), context.device),
            context.data(self.network.source).test,
            draws=self.draws,
            num_off=self.pixels,
            sigma=self.sigma,
            seed=SEED,
            progress=context.report,
        )
        best = context.outcome(self.network).numbers["best_validation_accuracy"]
        return {**found.to_dict(), "validation_accuracy": best}


@dataclass(frozen=True, eq=False)
class ClassifyDelta(Stage):
    """Accuracy of a network trained on δ alone, on the test images' δ (Section 3.1).

    Attributes:
        network: that is measured.
        test: δ of the test images, from the Φ that the training images' δ came from.
    """

    kind: ClassVar[str] = "classify-delta"
    version: ClassVar[int] = 1

    network: TrainOnDelta
    test: Transform

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Evaluate."""
        from sign_ext.evaluation import class_accuracy

        assert self.network.sign is not None
        images = context.data(self.network.source).test
        scale = context.outcome(self.network.sign)
        delta = delta_set(context.outcome(self.test), images, scale)
        model = trained(context.outcome(self.network), context.device)
        accuracy, each = class_accuracy(
            predict(model, delta.images), delta.labels, len(delta.class_names)
        )
        per_class = dict(zip(delta.class_names, each, strict=True))
        return {"accuracy": accuracy, "per_class": per_class, "images": len(delta)}


@dataclass(frozen=True, eq=False)
class RocAuc(Stage):
    """Area under the ROC curve on validation and test images (ISIC-2017).

    Attributes:
        network: a classifier of two classes.
    """

    kind: ClassVar[str] = "auc"
    version: ClassVar[int] = 1

    network: Train

    def title(self) -> str:
        """Name the network."""
        return f"AUC: {self.network.title()}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Evaluate."""
        from sign_ext.evaluation import roc_auc

        model = trained(context.outcome(self.network), context.device)
        splits = context.data(self.network.source)
        found: dict[str, Any] = {}
        for name in ("validation", "test"):
            part = part_of(splits, name)
            logits = predict(model, part.images)
            found[name] = roc_auc(logits, part.labels)
            found[f"{name}_accuracy"] = float((logits.argmax(1) == part.labels).double().mean())
            found[f"{name}_images"] = len(part)
        return found


@dataclass(frozen=True, eq=False)
class Uncertain(Stage):
    """Accuracy, low-confidence rows and uncertainty of an aleatoric network (Tables 2 and 3).

    Attributes:
        network: with the two heads of Section 3.2.
        samples: T of Eq. 10.
        ood: an out-of-distribution set for `load_ood`, with its options; None for the test images.
    """

    kind: ClassVar[str] = "uncertain"
    version: ClassVar[int] = 1

    network: Train
    samples: int
    ood: dict[str, Any] | None = None

    def title(self) -> str:
        """Name the network and the images."""
        where = f" on {self.ood['name']}" if self.ood else ""
        return f"uncertainty{where}: {self.network.title()}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Evaluate."""
        from sign_ext.evaluation import measure_uncertainty

        model = trained(context.outcome(self.network), context.device)
        return measure_uncertainty(model, self._images(context), samples=self.samples, seed=SEED)

    def _images(self, context: RunContext) -> ImageSet:
        if self.ood is None:
            return context.data(self.network.source).test
        options = {k: v for k, v in self.ood.items() if k not in ("name", "fingerprint")}
        name = self.ood["name"]
        return load_ood(name, context.data_root, **options)


@dataclass(frozen=True, eq=False)
class FeatureMap(Stage):
    """Features at the source layer: how compact classes are, and their t-SNE map (Figure 5).

    Attributes:
        network: whose features are taken.
        images: at most so many of the training and of the validation images, for the map.
    """

    kind: ClassVar[str] = "features"
    version: ClassVar[int] = 1

    network: Train
    images: int

    def title(self) -> str:
        """Name the network."""
        return f"features: {self.network.title()}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Measure and embed; validation images go into the training images' map."""
        from sign_ext.evaluation import compactness, embed, features

        splits = context.data(self.network.source)
        model = trained(context.outcome(self.network), context.device)
        found: dict[str, Any] = {}
        taken, parts = {}, {}
        for name in ("train", "validation"):
            part = part_of(splits, name)
            if len(part) > self.images:
                part = part.subset(spread(len(part), self.images))
            parts[name], taken[name] = part, features(model, part.images)
            tight = compactness(taken[name], part.labels)
            found[name] = {
                "silhouette": tight.silhouette,
                "scatter_ratio": tight.scatter_ratio,
                "images": len(part),
            }
        maps = embed(taken["train"], taken["validation"], seed=SEED)
        for (name, part), points in zip(parts.items(), maps, strict=True):
            found[name]["map"] = [[round(float(v), 2) for v in point] for point in points]
            found[name]["labels"] = part.labels.tolist()
        return found


def spread(count: int, wanted: int) -> list[int]:
    """Evenly spaced positions: `wanted` of `count`.

    Example:
        >>> spread(10, 3)
        [0, 3, 6]
    """
    return torch.arange(wanted).mul(count).div(wanted, rounding_mode="floor").tolist()


# The stage that keeps a few images before and after SIGN, and measures what the eye sees.


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

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Pick the first images of each class, and measure all."""
        originals = part_of(context.data(self.transform.phi.source), self.transform.part)
        moved = load_transformed(context.outcome(self.transform).folder).snapshots
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
