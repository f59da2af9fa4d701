"""Features, Φ's outputs, with their class compactness and t-SNE maps (Figure 5)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.checks import check_model
from sign_ext.data.splits import stratified_choice
from sign_ext.eval_state import computing, unwrap
from sign_ext.evaluation.accuracy import placement, predict
from sign_ext.source_layer import Phi, check_source, find_source_layer, named_source_layer

# The silhouette compares all pairs of samples; above this many samples, a subset is taken.
MAX_SILHOUETTE_SAMPLES = 5000
REPLICATES = 200  # of the bootstrap of compactness, from which a variance is taken
COMPONENTS = 50  # principal components kept before t-SNE, as its authors usually do
# Placing samples in a finished map needs few neighbours: openTSNE's own default.
TRANSFORM_PERPLEXITY = 5.0


def features(
    model: nn.Module, images: Tensor, *, layer: str | None = None, batch_size: int = 512
) -> Tensor:
    """Compute Φ(images), "the output of the last layer (before the logits)" of Section 3.

    The layer is found as `SignTransform` finds it, and layers after it are not computed.

    Args:
        model: float images (n, 3, H, W) in pixel units 0–255 → logits (n, classes). It runs in
            eval mode and in IEEE float32; its state is restored.
        images: uint8 or float tensor (N, 3, H, W) on any device; one batch of it is converted at a
            time.
        layer: the module whose output is taken; None takes the input of the final classifier.
        batch_size: images at once.

    Returns:
        float32 features (N, D) on the CPU; a spatial layer's are flattened.

    Raises:
        ValueError: no images, a batch size below 1, an unknown layer, or a network whose samples
            interact.
        SourceLayerError: Φ cannot be found, or SIGN does not support it.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 2))
        >>> features(model, torch.zeros(7, 3, 2, 2, dtype=torch.uint8)).shape
        torch.Size([7, 5])
    """
    if len(images) == 0:
        raise ValueError("images is empty; give at least one image.")
    check_model(model)
    network = unwrap(model)
    device, dtype = placement(network)
    with computing(network), torch.autocast(device.type, enabled=False):
        # Copied, because autograd does not accept tensors created in inference mode.
        probe = torch.empty_like(images[:1], device=device, dtype=dtype).copy_(images[:1])
        source = named_source_layer(network, layer) if layer else find_source_layer(network, probe)
        check_source(network, source, probe)
        return predict(_Features(Phi(network, source)), images, batch_size=batch_size)


class _Features(nn.Module):
    """Φ as a module with one row per sample, for `predict`."""

    def __init__(self, phi: Phi) -> None:
        super().__init__()
        self.network = phi.model  # registered, so that device and mode are the network's
        self.phi = phi

    def forward(self, images: Tensor) -> Tensor:
        return self.phi(images).reshape(len(images), -1)


@dataclass(frozen=True)
class Compactness:
    """How compact the classes are in feature space, by two measures without unit.

    Attributes:
        silhouette: mean over samples of (b − a) / max(a, b), where a is the mean Euclidean distance
            to the other samples of its class and b the one to the nearest other class; −1 to 1,
            higher is more compact.
        scatter_ratio: trace(S_w) / trace(S_b), 0 or more, lower is more compact. The within-class
            scatter is trace(S_w) = Σ_c Σ_{i in c} ‖x_i − m_c‖², the between-class scatter is
            trace(S_b) = Σ_c n_c ‖m_c − m‖², where m_c is the mean of class c's n_c samples and m
            the mean of all; their sum is the total scatter. Infinite if all class means are equal,
            NaN if all features are equal.
    """

    silhouette: float
    scatter_ratio: float


def compactness(features: Tensor, labels: Tensor, *, seed: int = 0) -> Compactness:
    """Measure how close samples of a class are to each other, relative to other classes.

    Args:
        features: float tensor (N, D), finite.
        labels: int64 (N,): at least two classes, and more samples than classes.
        seed: of the stratified subset of 5,000 samples whose silhouette is computed if there are
            more; the scatter ratio is always that of all samples.

    Returns:
        Both measures.

    Raises:
        ValueError: shapes that do not fit, too few classes or samples, or NaN or infinite
            features.

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
        raise ValueError("features has NaN or infinite values; the model has diverged.")
    classes, members = labels.cpu().unique(return_inverse=True)
    if not 2 <= len(classes) < len(labels):
        raise ValueError(
            f"labels has {len(classes)} classes for {len(labels)} samples; accepted: at least two "
            "classes, and more samples than classes."
        )
    values = features.detach().cpu()
    chosen = torch.arange(len(values))
    if len(values) > MAX_SILHOUETTE_SAMPLES:
        subset = stratified_choice(members.numpy(), MAX_SILHOUETTE_SAMPLES, seed=seed)
        chosen = torch.from_numpy(subset)
    silhouette = silhouette_score(values[chosen].double().numpy(), members[chosen].numpy())
    return Compactness(float(silhouette), _scatter_ratio(values, members))


def _scatter_ratio(values: Tensor, members: Tensor) -> float:
    """Return trace(S_w) / trace(S_b) in float64, converting one class at a time."""
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


def compactness_replicates(
    features: Tensor, labels: Tensor, *, replicates: int = REPLICATES, seed: int = 0
) -> dict[str, np.ndarray]:
    """Repeat both measures of compactness on bootstrap draws of the samples.

    The draws depend on the number of samples and the seed alone, so that the replicates of two
    networks on the same images are paired. A sample that is drawn w times counts w times; it is
    never its own neighbour, since copies of itself at distance 0 would make every class compact.

    Args:
        features: float tensor (N, D), finite.
        labels: int64 (N,), as for `compactness`. Of more than 5,000 samples, a stratified subset is
            drawn from, for both measures.
        replicates: how many, 1 or more.
        seed: of subset and draws.

    Returns:
        "silhouette" and "scatter_ratio" → float32 (replicates,).

    Example:
        >>> apart = torch.tensor([[0.0], [2.0], [10.0], [12.0]])
        >>> len(compactness_replicates(apart, torch.tensor([0, 0, 1, 1]))["silhouette"])
        200
    """
    classes, members = labels.cpu().unique(return_inverse=True)
    values = features.detach().cpu()
    if len(values) > MAX_SILHOUETTE_SAMPLES:
        subset = torch.from_numpy(
            stratified_choice(members.numpy(), MAX_SILHOUETTE_SAMPLES, seed=seed)
        )
        values, members = values[subset], members[subset]
    one_hot = torch.nn.functional.one_hot(members, len(classes)).float()
    values = values.float() - values.float().mean(0)
    distances = torch.cdist(values, values, compute_mode="donot_use_mm_for_euclid_dist")
    rng = np.random.default_rng(seed)
    found: dict[str, list[float]] = {"silhouette": [], "scatter_ratio": []}
    for _ in range(replicates):
        drawn = np.bincount(rng.integers(0, len(values), len(values)), minlength=len(values))
        weights = torch.from_numpy(drawn).float()
        found["silhouette"].append(_weighted_silhouette(distances, one_hot, members, weights))
        found["scatter_ratio"].append(_weighted_scatter(values, one_hot, weights))
    return {name: np.array(each, np.float32) for name, each in found.items()}


def _weighted_silhouette(
    distances: Tensor, one_hot: Tensor, members: Tensor, weights: Tensor
) -> float:
    """Return the silhouette of samples that count `weights` times, alone in a class as 0."""
    of_class = one_hot * weights[:, None]
    totals = distances @ of_class  # (N, C), to each class
    counts = of_class.sum(0).expand_as(totals)
    own = one_hot.bool()
    # A sample's distance to itself is 0, so only its count must be left out.
    others = (counts - weights[:, None] * one_hot).clamp(min=0)
    means = totals / others
    inside = means[own]
    outside = means.masked_fill(own | (others == 0), math.inf).amin(1)
    score = (outside - inside) / torch.maximum(outside, inside)
    score[(others[own] == 0) | ~torch.isfinite(score)] = 0.0
    return float((score * weights).double().sum() / weights.double().sum())


def _weighted_scatter(values: Tensor, one_hot: Tensor, weights: Tensor) -> float:
    """Return trace(S_w) / trace(S_b) of samples that count `weights` times."""
    of_class = one_hot * weights[:, None]
    counts = of_class.sum(0).double()
    sums = (of_class.T @ values).double()
    total = float((values.double().square().sum(1) * weights).sum())
    present = counts > 0
    between = float((sums[present].square().sum(1) / counts[present]).sum())
    centre = float(sums.sum(0).square().sum() / counts.sum())
    if between <= centre:
        return math.inf if total > between else math.nan
    return (total - between) / (between - centre)


def embed(
    train_features: Tensor,
    other_features: Tensor,
    *,
    seed: int,
    perplexity: float = 30.0,
    iterations: int = 500,
) -> tuple[Tensor, Tensor]:
    """Compute the t-SNE map of training features, and place other features in it.

    Both are standardised (mean 0, deviation 1 for each feature) and reduced to 50 principal
    components; means, deviations and components are the training features'. Each other sample is
    placed next to its neighbours among the training samples, which does not move any other
    sample. Distances and sizes of clusters in the map mean little: use `compactness` for numbers.

    Args:
        train_features: float tensor (N, D), finite, N ≥ 4.
        other_features: float tensor (M, D), finite, M ≥ 1; validation features, for example.
        seed: 0 or more. One thread computes, so results are bit-identical on one machine.
        perplexity: roughly the number of neighbours that count, 1 or more. It is limited to
            (N − 1) / 3, because t-SNE uses three times as many neighbours.
        iterations: of gradient descent; half as many precede with early exaggeration, and half as
            many place the other features.

    Returns:
        float32 (N, 2) and (M, 2) on the CPU.

    Raises:
        ValueError: shapes that do not fit, too few samples, NaN or infinite features, or a
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

    _check_embed(train_features, other_features, seed, perplexity, iterations)
    train, other = (f.detach().cpu().double().numpy() for f in (train_features, other_features))
    reduce = make_pipeline(
        StandardScaler(), PCA(min(COMPONENTS, len(train) - 1, train.shape[1]), random_state=seed)
    )
    train = reduce.fit_transform(train)
    other = reduce.transform(other)
    max_perplexity = (len(train) - 1) / 3
    tsne = TSNE(
        perplexity=min(perplexity, max_perplexity),
        early_exaggeration_iter=iterations // 2,
        n_iter=iterations,
        n_jobs=1,
        random_state=seed,
    )
    embedding = tsne.fit(train)
    # `transform` recentres the embedding in place, so it is read afterwards.
    placed = embedding.transform(
        other,
        perplexity=min(TRANSFORM_PERPLEXITY, perplexity, max_perplexity),
        n_iter=iterations // 2,
    )
    return torch.tensor(embedding, dtype=torch.float32), torch.tensor(placed, dtype=torch.float32)


def _check_embed(
    train: Tensor, other: Tensor, seed: int, perplexity: float, iterations: int
) -> None:
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
        raise ValueError("features have NaN or infinite values; the model has diverged.")
    if seed < 0:
        raise ValueError(f"seed={seed}; accepted: 0 or more.")
    if not 1 <= perplexity < float("inf"):
        raise ValueError(f"perplexity={perplexity}; accepted: 1 or more.")
    if iterations < 2:
        raise ValueError(f"iterations={iterations}; accepted: 2 or more.")
