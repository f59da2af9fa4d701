"""How good a model's probabilities are: calibration, likelihood, entropy."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sign_ext.formatting import finite

# float32's largest number below 1.
_BELOW_ONE = 1 - 2.0**-24
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class UncertaintyScores:
    """Scores of a model's probabilities, over all images.

    Attributes:
        entropy: mean predictive entropy in nats.
        negative_log_likelihood: mean of −log of the correct class's probability, in nats.
        calibration_error: expected calibration error, 0–1.
    """

    entropy: float
    negative_log_likelihood: float
    calibration_error: float

    def to_dict(self) -> dict[str, float]:
        """Return the fields as plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class Reliability:
    """A reliability diagram: images binned by the probability of their predicted class.

    Attributes:
        confidence: float64 (bins,), mean confidence in each bin; NaN in an empty bin.
        accuracy: float64 (bins,), share of correct predictions; NaN in an empty bin.
        count: int64 (bins,), images in each bin.
    """

    confidence: Tensor
    accuracy: Tensor
    count: Tensor

    def to_dict(self) -> dict[str, list[float | int | None]]:
        """Return lists for JSON; NaN becomes None."""
        fields: dict[str, list[float | int | None]] = finite(
            {name: values.tolist() for name, values in vars(self).items()}
        )
        return fields


def uncertainty_scores(
    probabilities: Tensor, labels: Tensor, *, bins: int = 15
) -> UncertaintyScores:
    """Score a model's probabilities: entropy, negative log likelihood, calibration error.

    Args:
        probabilities: float (N, C), each row summing to 1; also of a model that is not aleatoric.
        labels: int64 (N,).
        bins: of the calibration error, of equal width over 0–1.

    Returns:
        Means over all images. A probability of 0 counts as float64's smallest normal number, 708
        nats, so that one image cannot make the mean infinite.

    Raises:
        ValueError: shapes that do not fit, no images, rows that are not probabilities, or no bins.

    Example:
        >>> uncertainty_scores(torch.full((2, 4), 0.25), torch.tensor([0, 1])).entropy
        1.3862943611198906
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    p = check_probabilities(probabilities, labels, probabilities.shape[-1])
    if bins < 1:
        raise ValueError(f"bins={bins}; accepted: 1 or more.")
    correct = p.gather(1, labels[:, None])[:, 0]
    # Clamped, because torchmetrics takes values above 1 (1 + 1e-16 by rounding) for logits, and
    # puts exactly 1, to which float32 rounds confident predictions, into a bin of its own.
    error = multiclass_calibration_error(
        p.clamp(max=_BELOW_ONE), labels, num_classes=p.shape[1], n_bins=bins, norm="l1"
    )
    return UncertaintyScores(
        entropy=float(torch.special.entr(p).sum(dim=1).mean()),
        negative_log_likelihood=float(
            -correct.clamp(min=torch.finfo(torch.float64).tiny).log().mean()
        ),
        calibration_error=float(error),
    )


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> Reliability:
    """Compute a reliability diagram: accuracy against confidence, bin by bin.

    Args:
        probabilities: float (N, C), each row summing to 1.
        labels: int64 (N,).
        bins: of equal width over 0–1; a bin includes its lower bound, the last one both bounds.

    Returns:
        Mean confidence, accuracy and number of images of each bin.

    Raises:
        ValueError: shapes that do not fit, no images, rows that are not probabilities, or no bins.

    Example:
        >>> p = torch.tensor([[0.75, 0.25], [0.25, 0.75]])
        >>> reliability(p, torch.tensor([0, 0]), bins=2).accuracy
        tensor([   nan, 0.5000], dtype=torch.float64)
    """
    p = check_probabilities(probabilities, labels, probabilities.shape[-1])
    if bins < 1:
        raise ValueError(f"bins={bins}; accepted: 1 or more.")
    confidence, predicted = p.max(dim=1)
    bounds = torch.linspace(0, 1, bins + 1, dtype=torch.float64)
    index = torch.bucketize(confidence, bounds[1:-1], right=True)
    count = torch.bincount(index, minlength=bins)
    correct = (predicted == labels).double()
    return Reliability(
        confidence=torch.bincount(index, confidence, bins) / count,
        accuracy=torch.bincount(index, correct, bins) / count,
        count=count,
    )


def check_probabilities(probabilities: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Check probabilities, and return them as float64 on the labels' device.

    Args:
        probabilities: float (N, num_classes).
        labels: int64 (N,).
        num_classes: number of classes.

    Raises:
        ValueError: no images, a shape that does not fit, or rows that do not sum to 1.
    """
    if len(labels) == 0:
        raise ValueError("labels is empty; give at least one image.")
    if probabilities.shape != (len(labels), num_classes):
        raise ValueError(
            f"probabilities has shape {tuple(probabilities.shape)}; accepted: "
            f"{(len(labels), num_classes)}, one row per label and one column per class."
        )
    p = probabilities.to(labels.device, torch.float64)
    sums_to_one = bool(((p.sum(dim=1) - 1).abs() <= _SUM_TOLERANCE).all())
    if not sums_to_one or bool((p < 0).any()):
        raise ValueError(
            "probabilities has rows with negative values or a sum other than 1; give "
            "softmax(logits), or the probabilities of predict_aleatoric."
        )
    return p
