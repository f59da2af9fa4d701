"""The ROC curve of a two-class classifier, and the area under it."""

from __future__ import annotations

import torch
from torch import Tensor


def roc_auc(logits: Tensor, labels: Tensor) -> float:
    """Compute the area under the ROC curve: how often a positive image outscores a negative one.

    The score is the difference of the logits, log p(1)/p(0). The area is Mann and Whitney's
    statistic: the share of the pairs (positive, negative) in which the positive's score is
    higher, ties counting one half.

    Args:
        logits: float tensor (N, 2), finite; class 1 is the positive one (melanoma).
        labels: int64 (N,), each 0 or 1, both present.

    Returns:
        The area, 0–1; 0.5 is chance.

    Raises:
        ValueError: shapes that do not fit, other labels, only one class, or NaN or infinite values.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
        >>> roc_auc(logits, torch.tensor([0, 0, 1, 1]))
        0.75
    """
    from torchmetrics.functional.classification import binary_auroc

    return float(binary_auroc(_scores(logits, labels), labels))


def roc_curve(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the ROC curve: the false positive rate for each true positive rate.

    Args:
        logits: as for `roc_auc`.
        labels: as for `roc_auc`.

    Returns:
        The false positive rate and the true positive rate, float32 on the CPU, one value for each
        distinct score from the highest down, from (0, 0) to (1, 1). The area under
        them by the trapezoidal rule is `roc_auc`.

    Raises:
        ValueError: as `roc_auc`.

    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 3.0]])
        >>> false_positive, true_positive = roc_curve(logits, torch.tensor([0, 0, 1, 1]))
        >>> false_positive.tolist(), true_positive.tolist()
        ([0.0, 0.0, 0.5, 0.5, 1.0], [0.0, 0.5, 0.5, 1.0, 1.0])
    """
    from torchmetrics.functional.classification import binary_roc

    false_positive, true_positive, _ = binary_roc(_scores(logits, labels), labels)
    return false_positive.float().cpu(), true_positive.float().cpu()


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    """Check both, and return scores in 0–1, float64 (N,), ordered as the logit differences.

    torchmetrics applies the logistic function to scores outside 0–1, which makes large ones equal.
    The curve depends only on the order of the scores, so their ranks are returned.
    """
    if labels.ndim != 1 or logits.shape != (len(labels), 2):
        raise ValueError(
            f"logits has shape {tuple(logits.shape)} and labels {tuple(labels.shape)}; accepted: "
            "(N, 2) and (N,). For more than two classes use class_accuracy."
        )
    if not bool(torch.isfinite(logits).all()):
        raise ValueError(
            "logits has NaN or infinite values; the model has diverged or its input is not in "
            "pixel units 0–255."
        )
    present = sorted(set(labels.tolist()))
    if present != [0, 1]:
        raise ValueError(
            f"labels has the values {present[:5]}; accepted: 0 and 1, both of them present: a ROC "
            "curve compares positive with negative images."
        )
    difference = logits[:, 1].double() - logits[:, 0].double()
    distinct, ranks = difference.unique(return_inverse=True)
    return (ranks + 1).double() / len(distinct)
