"""How compact classes are in feature space, in numbers: what Figure 5 shows as a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sign_ext.data.splits import stratified_choice

# The silhouette compares every sample with every other one; above this many, a subset's is taken.
MOST_FOR_SILHOUETTE = 5000


@dataclass(frozen=True)
class Compactness:
    """Two measures of the same features and labels; neither depends on the features' unit.

    Attributes:
        silhouette: mean over samples of (b − a) / max(a, b), with a the mean Euclidean distance to
            the other samples of its class and b that to the nearest other class; −1 to 1, higher
            is more compact.
        scatter_ratio: trace(S_w) / trace(S_b), 0 or more, lower is more compact. The within-class
            scatter is trace(S_w) = Σ_c Σ_{i in c} ‖x_i − m_c‖², the between-class scatter is
            trace(S_b) = Σ_c n_c ‖m_c − m‖², with m_c the mean of class c's n_c samples and m that
            of all; their sum is the total scatter. Infinite where all class means are equal, NaN
            where all features are.
    """

    silhouette: float
    scatter_ratio: float


def compactness(features: Tensor, labels: Tensor, *, seed: int = 0) -> Compactness:
    """Measure how close the samples of a class are to each other, beside the other classes.

    Args:
        features: float tensor (N, D), finite.
        labels: int64 (N,): at least two classes, and more samples than classes.
        seed: chooses the 5,000 samples, class proportions kept, whose silhouette is taken where
            there are more; the scatter is always that of all.

    Returns:
        Both measures.

    Raises:
        ValueError: shapes that do not fit, too few classes or samples, or features that are not
            finite.

    Example:
        >>> apart = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> compactness(apart, torch.tensor([0, 0, 1, 1])).scatter_ratio
        0.04
    """
    from sklearn.metrics import silhouette_score

    if features.ndim != 2 or labels.shape != (len(features),):
        raise ValueError(
            f"features has shape {tuple(features.shape)} and labels {tuple(labels.shape)}; "
            "accepted: (N, D) and (N,)."
        )
    if not bool(torch.isfinite(features).all()):
        raise ValueError("features has values that are not finite; the model has diverged.")
    classes, members = labels.cpu().unique(return_inverse=True)
    if not 2 <= len(classes) < len(labels):
        raise ValueError(
            f"labels has {len(classes)} classes for {len(labels)} samples; accepted: at least two "
            "classes, and more samples than classes."
        )
    values = features.detach().cpu()
    chosen = torch.arange(len(values))
    if len(values) > MOST_FOR_SILHOUETTE:
        subset = stratified_choice(members.numpy(), MOST_FOR_SILHOUETTE, seed=seed)
        chosen = torch.from_numpy(subset)
    silhouette = silhouette_score(values[chosen].double().numpy(), members[chosen].numpy())
    return Compactness(float(silhouette), _scatter_ratio(values, members))


def _scatter_ratio(values: Tensor, members: Tensor) -> float:
    """Return trace(S_w) / trace(S_b), in float64; one class at a time is copied to it."""
    centre = values.mean(0, dtype=torch.float64)
    within = between = 0.0
    for each in members.unique():
        of_class = values[members == each].double()
        mean = of_class.mean(0)
        within += float((of_class - mean).square().sum())
        between += len(of_class) * float((mean - centre).square().sum())
    if between == 0:
        return math.inf if within > 0 else math.nan
    return within / between
