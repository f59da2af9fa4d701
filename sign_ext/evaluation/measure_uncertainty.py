"""All that Tables 2 and 3 say of an aleatoric network, and its calibration, on one test set."""

from __future__ import annotations

from typing import Any

from torch import nn

from sign_ext.data.image_set import ImageSet
from sign_ext.evaluation.calibration import reliability, uncertainty_scores
from sign_ext.evaluation.ood import present_class_accuracy
from sign_ext.evaluation.uncertainty import low_confidence, predict_aleatoric


def measure_uncertainty(
    model: nn.Module, images: ImageSet, *, samples: int = 100, seed: int = 0
) -> dict[str, Any]:
    """Measure an aleatoric network: accuracy, low-confidence rows, uncertainty and calibration.

    Args:
        model: built with `build_model(..., aleatoric=True)`; run in eval mode, left as it was.
        images: the test set; classes without images are left out.
        samples: T, draws of the logits for each image (Eq. 11).
        seed: of the draws.

    Returns:
        JSON-able: accuracy, per_class and counts by class name; low, Table 2's rows "p ≤ 0.5";
        sigma, its mean over the images; scores (NLL, entropy, ECE …); reliability; images.

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
    names = images.class_names
    found = predict_aleatoric(model, images.images, samples=samples, seed=seed)
    accuracy = present_class_accuracy(found.probabilities, images.labels, len(names))
    low = low_confidence(found.probabilities, found.sigma, images.labels, len(names))
    return {
        "accuracy": accuracy.overall,
        "per_class": {names[c]: a for c, a in accuracy.per_class.items()},
        "counts": {names[c]: int((images.labels == c).sum()) for c in sorted(accuracy.per_class)},
        "low": low.to_dict(names),
        "sigma": float(found.sigma.mean()),
        "scores": uncertainty_scores(found.probabilities, images.labels).to_dict(),
        "reliability": reliability(found.probabilities, images.labels).to_dict(),
        "images": len(images),
    }
