"""The stages that measure: a network on images, its features, and what SIGN does to images."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.data import ImageSet, load_ood
from sign_ext.evaluation import (
    Answers,
    answer_uncertainly,
    class_accuracy,
    compactness,
    compactness_replicates,
    embed,
    evaluate,
    features,
    predict,
    roc_auc,
)
from sign_ext.experiments.stages.cost import FORWARD
from sign_ext.experiments.stages.networks import (
    Train,
    TrainOnDelta,
    Transform,
    delta_set,
    load_trained,
)
from sign_ext.experiments.stages.sources import evenly_spaced
from sign_ext.experiments.stages.stage import Outcome, RunContext, Stage
from sign_ext.report.plots import pick_samples, png
from sign_ext.store import load_transformed

ANSWERS = "answers.safetensors"  # of each test image, beside a stage's record
SEED = 0  # of corruptions and Monte Carlo samples: every network gets the same ones
CHUNK = 4096  # images at a time where a whole set in float32 would not fit in memory


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
        """A forward pass on clean images, and one for each draw of each of two corruptions."""
        return self.network.forward_flops * FORWARD * self.images * (1 + 2 * self.draws)

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Evaluate."""
        trained = context.outcome(self.network)
        model = load_trained(trained, context.device)
        evaluation = evaluate(
            LogitsAlone(model) if self.network.network.aleatoric else model,
            context.data(self.network.source).test,
            draws=self.draws,
            num_off=self.pixels,
            sigma=self.sigma,
            seed=SEED,
            progress=context.report,
        )
        evaluation.answers.write(folder / ANSWERS)
        best = trained.numbers["best_validation_accuracy"]
        return {**evaluation.to_dict(), "validation_accuracy": best}


class LogitsAlone(nn.Module):
    """An aleatoric network without its σ: what it answers where no logits are drawn.

    Args:
        model: returns an `AleatoricOutput`.
    """

    def __init__(self, model: nn.Module) -> None:
        """Hold the network."""
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Return f."""
        logits: Tensor = self.model(images).logits
        return logits


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
        assert isinstance(self.network.sign, Transform)
        images = context.data(self.network.source).test
        delta = delta_set(
            context.outcome(self.test), images, scaled_by=context.outcome(self.network.sign)
        )
        model = load_trained(context.outcome(self.network), context.device)
        logits = predict(model, delta.images)
        accuracy, by_class = class_accuracy(logits, delta.labels, len(delta.class_names))
        per_class = dict(zip(delta.class_names, by_class, strict=True))
        return {"accuracy": accuracy, "per_class": per_class, "images": len(delta)}


@dataclass(frozen=True, eq=False)
class MeasureRocAuc(Stage):
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
        model = load_trained(context.outcome(self.network), context.device)
        splits = context.data(self.network.source)
        numbers: dict[str, Any] = {}
        answers: dict[str, np.ndarray] = {}
        for name in ("validation", "test"):
            part = splits.part(name)
            logits = predict(model, part.images)
            numbers[name] = roc_auc(logits, part.labels)
            answers[f"{name}_score"] = (logits[:, 1].double() - logits[:, 0].double()).numpy()
            answers[f"{name}_positive"] = (part.labels == 1).numpy()
            numbers[f"{name}_accuracy"] = float((logits.argmax(1) == part.labels).double().mean())
            numbers[f"{name}_images"] = len(part)
        Answers(answers).write(folder / ANSWERS)
        return numbers


@dataclass(frozen=True, eq=False)
class MeasureUncertainty(Stage):
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
        model = load_trained(context.outcome(self.network), context.device)
        images = self._images(context)
        numbers, answers = answer_uncertainly(model, images, samples=self.samples, seed=SEED)
        answers.write(folder / ANSWERS)
        return numbers

    def _images(self, context: RunContext) -> ImageSet:
        if self.ood is None:
            return context.data(self.network.source).test
        options = {k: v for k, v in self.ood.items() if k not in ("name", "fingerprint")}
        return load_ood(self.ood["name"], context.data_root, **options)


@dataclass(frozen=True, eq=False)
class MapFeatures(Stage):
    """Features at the source layer: how compact classes are, and their t-SNE map (Figure 5).

    Attributes:
        network: whose features are taken.
        images: at most so many of the training and of the validation images.
    """

    kind: ClassVar[str] = "features"
    version: ClassVar[int] = 1

    network: Train
    images: int

    def title(self) -> str:
        """Name the network."""
        return f"features: {self.network.title()}"

    def run(self, context: RunContext, folder: Path) -> dict[str, Any]:
        """Measure and embed; validation images are embedded into the training images' map."""
        splits = context.data(self.network.source)
        model = load_trained(context.outcome(self.network), context.device)
        numbers: dict[str, Any] = {}
        vectors, parts = {}, {}
        answers: dict[str, np.ndarray] = {}
        for name in ("train", "validation"):
            part = splits.part(name)
            if len(part) > self.images:
                part = part.subset(evenly_spaced(len(part), self.images))
            parts[name], vectors[name] = part, features(model, part.images)
            measured = compactness(vectors[name], part.labels)
            numbers[name] = {
                "silhouette": measured.silhouette,
                "scatter_ratio": measured.scatter_ratio,
                "images": len(part),
            }
            again = compactness_replicates(vectors[name], part.labels, seed=SEED)
            answers |= {f"{name}_{measure}": each for measure, each in again.items()}
        Answers(answers).write(folder / ANSWERS)
        maps = embed(vectors["train"], vectors["validation"], seed=SEED)
        for (name, part), points in zip(parts.items(), maps, strict=True):
            numbers[name]["map"] = [[round(float(v), 2) for v in point] for point in points]
            numbers[name]["labels"] = part.labels.tolist()
        return numbers


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
        originals = context.data(self.transform.phi.source).part(self.transform.part)
        snapshots = load_transformed(context.outcome(self.transform).folder).snapshots
        samples = pick_samples(originals, snapshots, each=self.each)
        rows = [
            {"label": "before" if name == "p" else name, "images": [png_base64(i) for i in images]}
            for name, images in samples.rows().items()
        ]
        return {
            "columns": list(samples.labels),
            "rows": rows,
            "delta_scale": samples.scale,
            "before": contrast_and_edges(originals.images),
            "after": {str(k): contrast_and_edges(images) for k, images in snapshots.items()},
        }


def read_answers(outcome: Outcome) -> Answers | None:
    """What a network answered to each image; None for outcomes made before answers were kept.

    Raises:
        ValueError: the file is damaged.
    """
    path = outcome.folder / ANSWERS
    return Answers.read(path) if path.is_file() else None


def png_base64(image: np.ndarray) -> str:
    """A uint8 image (H, W, 3) as a PNG in base64."""
    return base64.b64encode(png(image)).decode()


def contrast_and_edges(images: Tensor) -> dict[str, float]:
    """The paper's "color contrasts and boundaries" in numbers, means over images, in grey levels.

    Args:
        images: uint8 or float32 (N, 3, H, W), grey levels.

    Returns:
        contrast: standard deviation over an image's positions of the mean over channels;
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
