"""Silhouette and scatter against loops over samples and classes in NumPy."""

from __future__ import annotations

import math
import sys

import numpy as np
import pytest
import sklearn.metrics
import torch

from sign_ext.evaluation import Compactness, compactness


def by_loops(points: np.ndarray, labels: np.ndarray) -> Compactness:
    """Both measures as their definitions read, one sample at a time."""
    classes = sorted(set(labels.tolist()))
    silhouettes = []
    for i, point in enumerate(points):
        distances = np.sqrt(((points - point) ** 2).sum(1))
        own = (labels == labels[i]) & (np.arange(len(points)) != i)
        if not own.any():  # a class of one: 0 by Rousseeuw's convention
            silhouettes.append(0.0)
            continue
        a = distances[own].mean()
        b = min(distances[labels == c].mean() for c in classes if c != labels[i])
        silhouettes.append((b - a) / max(a, b))
    within = between = 0.0
    centre = points.mean(0)
    for c in classes:
        mine = points[labels == c]
        for point in mine:
            within += ((point - mine.mean(0)) ** 2).sum()
        between += len(mine) * ((mine.mean(0) - centre) ** 2).sum()
    total = ((points - centre) ** 2).sum()
    assert within + between == pytest.approx(total)
    return Compactness(float(np.mean(silhouettes)), float(within / between))


@pytest.mark.parametrize(("count", "size", "classes"), [(7, 1, 2), (83, 5, 4), (129, 31, 9)])
def test_both_are_their_definitions(
    count: int, size: int, classes: int, rng: np.random.Generator
) -> None:
    labels = rng.permutation(np.arange(count) % classes) * 3 + 1  # labels need not be 0, 1, …
    labels[0] = 99  # a class of one
    points = rng.normal(size=(count, size)) + rng.normal(size=(100, size))[labels]
    points = points.astype(np.float32)
    given = torch.from_numpy(points), torch.from_numpy(labels)
    kept = given[0].clone()
    found = compactness(*given)
    expected = by_loops(points.astype(np.float64), labels)
    assert found.silhouette == pytest.approx(expected.silhouette, abs=1e-9)
    assert found.scatter_ratio == pytest.approx(expected.scatter_ratio, rel=1e-9)
    assert torch.equal(given[0], kept)


def test_units_do_not_matter_and_compact_is_compact(torch_rng: torch.Generator) -> None:
    labels = torch.arange(60) % 3
    centres = torch.eye(3)[labels] * 10
    noise = torch.randn(60, 3, generator=torch_rng)
    tight, loose = compactness(centres + noise / 10, labels), compactness(centres + noise, labels)
    assert tight.silhouette > loose.silhouette
    # A tenth of the noise leaves a hundredth of the within-class scatter.
    assert tight.scatter_ratio == pytest.approx(loose.scatter_ratio / 100, rel=0.2)
    scaled = compactness((centres + noise) * 37 + 1000, labels)
    assert scaled.silhouette == pytest.approx(loose.silhouette, abs=1e-4)
    assert scaled.scatter_ratio == pytest.approx(loose.scatter_ratio, rel=1e-4)


def test_above_the_limit_a_stratified_subset_has_its_silhouette(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the package, the module's name is the function's.
    module = sys.modules["sign_ext.evaluation.features"]
    assert module.MOST_FOR_SILHOUETTE == 5000
    labels = rng.permutation(np.repeat([0, 1, 2], [200, 80, 40]))
    points = rng.normal(size=(320, 4)) + labels[:, None]
    given = torch.from_numpy(points), torch.from_numpy(labels)
    whole = compactness(*given)
    monkeypatch.setattr(module, "MOST_FOR_SILHOUETTE", 160)
    seen: list[np.ndarray] = []
    original = sklearn.metrics.silhouette_score

    def watched(values: np.ndarray, members: np.ndarray) -> float:
        seen.append(members)
        return original(values, members)

    monkeypatch.setattr(sklearn.metrics, "silhouette_score", watched)
    one, again, other = (compactness(*given, seed=seed) for seed in (1, 1, 2))
    assert [np.bincount(members).tolist() for members in seen] == [[100, 40, 20]] * 3
    assert one == again
    assert one.silhouette != other.silhouette
    assert one.silhouette == pytest.approx(whole.silhouette, abs=0.1)
    assert one.scatter_ratio == other.scatter_ratio == whole.scatter_ratio


def test_edges() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    crossed = compactness(torch.tensor([[-1.0], [1.0], [-2.0], [2.0]]), labels)
    assert math.isinf(crossed.scatter_ratio)
    collapsed = compactness(torch.full((4, 3), 7.0), labels)
    assert math.isnan(collapsed.scatter_ratio)
    assert collapsed.silhouette == 0
    points = compactness(torch.tensor([[1.0], [1.0], [2.0], [2.0]]), labels)
    assert points == Compactness(1.0, 0.0)


def test_refusals() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"accepted: \(N, D\) and \(N,\)"):
        compactness(torch.zeros(4, 2, 2), labels)
    with pytest.raises(ValueError, match=r"labels \(4,\)"):
        compactness(torch.zeros(3, 2), labels)
    with pytest.raises(ValueError, match="not finite"):
        compactness(torch.full((4, 2), float("nan")), labels)
    with pytest.raises(ValueError, match="1 classes for 4 samples"):
        compactness(torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="4 classes for 4 samples"):
        compactness(torch.rand(4, 2), torch.arange(4))
