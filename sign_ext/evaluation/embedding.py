"""t-SNE maps of features: the picture of Figure 5."""

from __future__ import annotations

import torch
from torch import Tensor

COMPONENTS = 50  # principal components kept before t-SNE, its authors' usual number
# Transforming into a finished map needs few neighbours only: openTSNE's own default.
TRANSFORM_PERPLEXITY = 5.0


def embed(
    train_features: Tensor,
    other_features: Tensor,
    *,
    seed: int,
    perplexity: float = 30.0,
    iterations: int = 500,
) -> tuple[Tensor, Tensor]:
    """Draw the t-SNE map of training features, and place other features in that map.

    Both are standardised (mean 0, deviation 1 for each feature) and reduced to 50 principal
    components; means, deviations and components are the training features'. Each other sample is
    placed beside its neighbours among the training samples; the map and the remaining samples do
    not move for it. Distances within the map, and sizes of clusters, mean little: take
    `compactness` for numbers.

    Args:
        train_features: float tensor (N, D), finite, N ≥ 4.
        other_features: float tensor (M, D), finite, M ≥ 1: validation features, say.
        seed: 0 or more. One thread computes, so the same seed gives the same bits on one machine.
        perplexity: about how many neighbours count, 1 or more. At most (N − 1) / 3 is used:
            t-SNE looks at three times as many neighbours, and there are N − 1.
        iterations: of gradient descent; half as many go before with early exaggeration, and half
            as many place the others.

    Returns:
        float32 (N, 2) and (M, 2) on the CPU.

    Raises:
        ValueError: shapes that do not fit, too few samples, features that are not finite, or a
            number out of range.

    Example:
        >>> points = torch.rand(12, 3, generator=torch.Generator().manual_seed(0))
        >>> train, other = embed(points[:8], points[8:], seed=0, iterations=50)
        >>> train.shape, other.shape
        (torch.Size([8, 2]), torch.Size([4, 2]))
    """
    from openTSNE import TSNE
    from sklearn.decomposition import PCA
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    _check(train_features, other_features, seed, perplexity, iterations)
    train, other = (f.detach().cpu().double().numpy() for f in (train_features, other_features))
    reduce = make_pipeline(
        StandardScaler(), PCA(min(COMPONENTS, len(train) - 1, train.shape[1]), random_state=seed)
    )
    train = reduce.fit_transform(train)
    other = reduce.transform(other)
    most = (len(train) - 1) / 3
    tsne = TSNE(
        perplexity=min(perplexity, most),
        early_exaggeration_iter=iterations // 2,
        n_iter=iterations,
        n_jobs=1,
        random_state=seed,
    )
    drawn = tsne.fit(train)
    # Placing others recentres the map in place, so the training samples are read afterwards.
    placed = drawn.transform(
        other, perplexity=min(TRANSFORM_PERPLEXITY, perplexity, most), n_iter=iterations // 2
    )
    return torch.tensor(drawn, dtype=torch.float32), torch.tensor(placed, dtype=torch.float32)


def _check(train: Tensor, other: Tensor, seed: int, perplexity: float, iterations: int) -> None:
    if train.ndim != 2 or other.ndim != 2 or train.shape[1] != other.shape[1]:
        raise ValueError(
            f"train_features has shape {tuple(train.shape)} and other_features "
            f"{tuple(other.shape)}; accepted: (N, D) and (M, D)."
        )
    if len(train) < 4 or len(other) < 1:
        raise ValueError(
            f"{len(train)} training and {len(other)} other samples; accepted: at least 4 and 1."
        )
    if not bool(torch.isfinite(train).all() and torch.isfinite(other).all()):
        raise ValueError("features have values that are not finite; the model has diverged.")
    if seed < 0:
        raise ValueError(f"seed={seed}; accepted: 0 or more.")
    if not 1 <= perplexity < float("inf"):
        raise ValueError(f"perplexity={perplexity}; accepted: 1 or more.")
    if iterations < 2:
        raise ValueError(f"iterations={iterations}; accepted: 2 or more.")
