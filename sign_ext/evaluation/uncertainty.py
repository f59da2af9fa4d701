"""Aleatoric networks: predictions, low-confidence rows (Table 2), and all measures at once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sign_ext.data.classes import unique_names, with_classes_of
from sign_ext.data.image_set import ImageSet
from sign_ext.evaluation.accuracy import predict, present_class_accuracy
from sign_ext.evaluation.answers import Answers
from sign_ext.evaluation.calibration import check_probabilities, reliability, uncertainty_scores
from sign_ext.evaluation.evaluate import answers_of
from sign_ext.formatting import finite
from sign_ext.models import AleatoricOutput, sample_logits

# Noise is drawn for this many images at a time, which bounds memory and makes the noise independent
# of the network's batch size.
BLOCK = 64


class AleatoricPrediction(NamedTuple):
    """Predictions of an aleatoric model for N images, on the CPU.

    Attributes:
        probabilities: float64 (N, C), the mean of the softmax over T draws of the logits.
        sigma: float64 (N,), the mean of σ over the classes: Table 2's uncertainty.
    """

    probabilities: Tensor
    sigma: Tensor


@dataclass(frozen=True)
class LowConfidenceRow:
    """Correctly classified images whose correct class has a probability of at most 0.5.

    Attributes:
        probability: mean probability of the correct class; NaN without such images.
        count: number of such images.
        uncertainty: mean of their `sigma`; NaN without such images.
    """

    probability: float
    count: int
    uncertainty: float


@dataclass(frozen=True)
class LowConfidence:
    """Table 2's rows "p ≤ 0.5" of one model.

    Attributes:
        per_class: one row per class, in order.
        total: over all images.
        smallest: the smallest probability of the correct class among all correctly classified
            images (the text's "threshold"); NaN if none is correct.
    """

    per_class: tuple[LowConfidenceRow, ...]
    total: LowConfidenceRow
    smallest: float

    def to_dict(self, class_names: Sequence[str]) -> dict[str, Any]:
        """Return the fields as values for JSON; NaN becomes None.

        Args:
            class_names: the keys of the classes' rows, in order.
        """
        rows = zip(unique_names(class_names), self.per_class, strict=True)
        fields: dict[str, Any] = finite(
            {
                "per_class": {name: asdict(row) for name, row in rows},
                "total": asdict(self.total),
                "smallest": self.smallest,
            }
        )
        return fields


def predict_aleatoric(
    model: nn.Module,
    images: Tensor,
    *,
    samples: int = 100,
    seed: int = 0,
    batch_size: int = 512,
) -> AleatoricPrediction:
    """Predict with an aleatoric model: probabilities averaged over draws of the logits (Eq. 11).

    The noise depends on the seed, not on batch size or device.

    Args:
        model: float images (n, 3, H, W) in pixel units 0–255 → `AleatoricOutput`; run in eval
            mode; its flags are restored.
        images: uint8 or float tensor (N, 3, H, W) on any device.
        samples: T, draws of the logits for each image, 1 or more.
        seed: of the draws, 0 or more.
        batch_size: images at once through the network.

    Returns:
        Probabilities and mean σ.

    Raises:
        TypeError: the model returns something else.
        ValueError: no images, or a number out of range.

    Example:
        >>> from sign_ext.models import build_model
        >>> model = build_model("basic_cnn", num_classes=3, aleatoric=True)
        >>> predict_aleatoric(model, torch.zeros(5, 3, 32, 32)).probabilities.shape
        torch.Size([5, 3])
    """
    if samples < 1:
        raise ValueError(f"samples={samples}; accepted: 1 or more (the paper's T).")
    if seed < 0:
        raise ValueError(f"seed={seed}; accepted: 0 or more.")
    joined = predict(_Concatenated(model), images, batch_size=batch_size).double()
    output = AleatoricOutput(*joined.chunk(2, dim=1))
    generator = torch.Generator().manual_seed(seed)
    blocks = zip(output.logits.split(BLOCK), output.sigma.split(BLOCK), strict=True)
    probabilities = [
        sample_logits(AleatoricOutput(*block), samples, generator).softmax(dim=2).mean(dim=0)
        for block in blocks
    ]
    return AleatoricPrediction(torch.cat(probabilities), output.sigma.mean(dim=1))


class _Concatenated(nn.Module):
    """Concatenates the two parts of an aleatoric output, because `predict` takes one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        output = self.model(images)
        if not isinstance(output, AleatoricOutput):
            raise TypeError(
                f"model returns {type(output).__name__}; accepted: AleatoricOutput. Build it with "
                "build_model(..., aleatoric=True)."
            )
        return torch.cat(output, dim=1)


def low_confidence(
    probabilities: Tensor,
    sigma: Tensor,
    labels: Tensor,
    num_classes: int,
    threshold: float = 0.5,
) -> LowConfidence:
    """Compute Table 2's rows: the correctly classified images with low confidence.

    Args:
        probabilities: float (N, num_classes), each row summing to 1.
        sigma: float (N,), the uncertainty of each image.
        labels: int64 (N,).
        num_classes: number of classes.
        threshold: the highest probability that counts as low, 0–1 (the paper: 0.5).

    Returns:
        Mean probability of the correct class, number of images and mean uncertainty, for each
        class and in total, and the smallest such probability of all correctly classified images.

    Raises:
        ValueError: shapes that do not fit, no images, rows that are not probabilities, or a
            threshold out of range.

    Example:
        >>> p = torch.tensor([[0.4, 0.3, 0.3], [0.1, 0.9, 0.0]])
        >>> low_confidence(p, torch.tensor([2.0, 1.0]), torch.tensor([0, 1]), 3).total.count
        1
    """
    p = check_probabilities(probabilities, labels, num_classes)
    if sigma.shape != labels.shape:
        raise ValueError(f"sigma has shape {tuple(sigma.shape)}; accepted: {tuple(labels.shape)}.")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold}; accepted: a probability, 0 to 1.")
    correct = p.argmax(dim=1) == labels
    label_probability = p.gather(1, labels[:, None])[:, 0]
    low = correct & (label_probability <= threshold)

    def row(chosen: Tensor) -> LowConfidenceRow:
        # The mean of an empty tensor is NaN.
        return LowConfidenceRow(
            probability=float(label_probability[chosen].mean()),
            count=int(chosen.sum()),
            uncertainty=float(sigma[chosen].double().mean()),
        )

    return LowConfidence(
        per_class=tuple(row(low & (labels == c)) for c in range(num_classes)),
        total=row(low),
        smallest=float(label_probability[correct].min()) if bool(correct.any()) else math.nan,
    )


def measure_uncertainty(
    model: nn.Module, images: ImageSet, *, samples: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Measure an aleatoric network on a test set: all of Tables 2 and 3, and calibration.

    Args:
        model: built with `build_model(..., aleatoric=True)`; run in eval mode; its flags are
            restored. Classes are matched by name, as in `evaluate`.
        images: the test set; classes without images are omitted.
        samples: T, draws of the logits for each image (Eq. 11).
        seed: of the draws.

    Returns:
        Values for JSON: accuracy; per_class and counts by class name; low, Table 2's rows
        "p ≤ 0.5"; sigma, its mean over the images; scores (NLL, entropy, ECE …); reliability;
        images, their number.

    Raises:
        TypeError: the model is not aleatoric.
        ValueError: no images, or a number out of range.

    Example:
        >>> from sign_ext.data import load_data
        >>> from sign_ext.models import build_model
        >>> digits = load_data("digits", test_size=20).test
        >>> found = measure_uncertainty(build_model("basic_cnn", aleatoric=True), digits, samples=2)
        >>> found["images"]
        20
    """
    return answer_uncertainly(model, images, samples=samples, seed=seed)[0]


def answer_uncertainly(
    model: nn.Module, images: ImageSet, *, samples: int = 100, seed: int = 0
) -> tuple[dict[str, Any], Answers]:
    """Measure an aleatoric network as `measure_uncertainty` does, and keep its answers.

    Returns:
        What `measure_uncertainty` returns, and "correct", "probability" and "sigma" of each image.
    """
    images = with_classes_of(model, images)
    names = unique_names(images.class_names)
    found = predict_aleatoric(model, images.images, samples=samples, seed=seed)
    accuracy = present_class_accuracy(found.probabilities, images.labels, len(names))
    low = low_confidence(found.probabilities, found.sigma, images.labels, len(names))
    answers = answers_of(found.probabilities, images.labels)
    answers["sigma"] = found.sigma.float().numpy()
    numbers = {
        "accuracy": accuracy.overall,
        "per_class": {names[c]: a for c, a in accuracy.per_class.items()},
        "counts": {names[c]: int((images.labels == c).sum()) for c in sorted(accuracy.per_class)},
        "low": low.to_dict(names),
        "sigma": float(found.sigma.mean()),
        "scores": uncertainty_scores(found.probabilities, images.labels).to_dict(),
        "reliability": reliability(found.probabilities, images.labels).to_dict(),
        "images": len(images),
    }
    return numbers, Answers(answers)
