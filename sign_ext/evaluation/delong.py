"""Areas under ROC curves of several scores of the same images, with their covariance over images.

E. R. DeLong, D. M. DeLong and D. L. Clarke-Pearson, "Comparing the areas under two or more
correlated receiver operating characteristic curves", Biometrics 44 (1988), computed from ranks as
X. Sun and W. Xu do, "Fast implementation of DeLong's algorithm", IEEE Signal Processing Letters 21
(2014).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class AucComponents(NamedTuple):
    """An area under a ROC curve as means over images.

    Attributes:
        positive: float64 (m,), for each positive image the share of the negative ones that it
            outscores, ties counting one half. Their mean is the area.
        negative: float64 (n,), for each negative image the share of the positive ones that
            outscore it. Their mean is the area, too.
    """

    positive: np.ndarray
    negative: np.ndarray

    @property
    def area(self) -> float:
        """The area under the curve, 0–1."""
        return float(self.positive.mean())


def auc_components(scores: np.ndarray, positive: np.ndarray) -> AucComponents:
    """Compute DeLong's structural components from ranks, in O(N log N).

    A positive image's midrank among all images, less its midrank among the positive ones, counts
    the negative images that it outscores; the negative images' likewise.

    Args:
        scores: float (N,), higher for images that look positive; finite.
        positive: bool (N,), with at least one of each.

    Raises:
        ValueError: shapes that differ, only one class, or scores that are not finite.

    Example:
        >>> scores, positive = np.array([0.1, 0.8, 0.4, 0.9]), np.array([0, 0, 1, 1], dtype=bool)
        >>> auc_components(scores, positive).area
        0.75
    """
    from scipy.stats import rankdata

    if scores.ndim != 1 or positive.shape != scores.shape or positive.dtype != np.bool_:
        raise ValueError(
            f"scores has shape {scores.shape}, positive {positive.shape} and {positive.dtype}; "
            "accepted: (N,) both, positive bool."
        )
    if not 0 < positive.sum() < len(positive) or not np.isfinite(scores).all():
        raise ValueError(
            "accepted: positive and negative images, at least one of each, with finite scores."
        )
    m, n = int(positive.sum()), int((~positive).sum())
    ranks = rankdata(scores)
    outscored = ranks[positive] - rankdata(scores[positive])
    outscoring = m - (ranks[~positive] - rankdata(scores[~positive]))
    return AucComponents(outscored / n, outscoring / m)


def auc_covariance(curves: list[AucComponents]) -> np.ndarray:
    """Estimate the covariance of areas over images, positive and negative ones drawn separately.

    cov(θ_r, θ_s) = cov(positive components)/m + cov(negative components)/n.

    Args:
        curves: of the same images, two of each class at least.

    Returns:
        float64 (curves, curves).

    Raises:
        ValueError: fewer than two images of a class, or curves of different images.
    """
    sizes = {(len(each.positive), len(each.negative)) for each in curves}
    if len(sizes) != 1 or min(map(min, sizes)) < 2:
        raise ValueError(
            f"curves of {sorted(sizes)} positive and negative images; accepted: the same images "
            "for all, two of each class at least."
        )
    ((m, n),) = sizes
    positive = np.atleast_2d(np.cov([each.positive for each in curves]))
    negative = np.atleast_2d(np.cov([each.negative for each in curves]))
    found: np.ndarray = positive / m + negative / n
    return found
