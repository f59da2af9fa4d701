"""Features are SIGN's own layer by hand; compactness is its definition; t-SNE keeps blobs apart."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
import sklearn.metrics
import torch
from torch import Tensor, nn

from sign_ext import SignTransform, SourceLayerError
from sign_ext.evaluation import (
    Compactness,
    compactness,
    compactness_replicates,
    embed,
    features,
)
from sign_ext.models import build_model


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(6 * 5 * 3, 9),
        nn.Tanh(),
        nn.Linear(9, 4),
    )


@pytest.fixture
def images(torch_rng: torch.Generator) -> Tensor:
    return torch.randint(0, 256, (11, 3, 7, 5), generator=torch_rng, dtype=torch.uint8)


@pytest.mark.parametrize("batch_size", [1, 4, 512])
def test_they_are_the_classifiers_input(batch_size: int, images: Tensor) -> None:
    model = network()
    model(images.float())  # gives BatchNorm something to keep
    found = features(model, images, batch_size=batch_size)
    model.eval()
    with torch.no_grad():
        expected = model[:-1](images.float())
    assert found.dtype == torch.float32
    assert found.shape == (11, 9)
    assert not found.requires_grad
    assert not found.is_inference()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_named_layer_is_flattened_in_logical_order(images: Tensor) -> None:
    model = network().eval()
    with torch.no_grad():
        expected = model[:2](images.float()).flatten(1)
    found = features(model, images, layer="1", batch_size=3)
    assert found.shape == (11, 90)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", ["basic_cnn", "mobilenet_v2"])
def test_it_is_the_layer_of_sign(name: str, torch_rng: torch.Generator) -> None:
    model = build_model(name, num_classes=3, image_shape=(3, 32, 32)).eval()
    images = torch.rand(2, 3, 32, 32, generator=torch_rng) * 255
    source = SignTransform(model).source_layer(images)
    assert source is not None
    seen: list[Tensor] = []
    classifier = model.get_submodule(source.name)
    handle = classifier.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach()))
    model(images)
    handle.remove()
    torch.testing.assert_close(features(model, images), seen[0].flatten(1), rtol=1e-4, atol=1e-5)


def test_the_model_and_the_images_are_left_alone(images: Tensor) -> None:
    model = network()
    model[1].eval()
    model[5].weight.requires_grad_(False)
    flags = [module.training for module in model.modules()]
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    kept, random = images.clone(), torch.get_rng_state()

    def check() -> None:
        assert [module.training for module in model.modules()] == flags
        assert [parameter.requires_grad for parameter in model.parameters()] == trainable
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
        assert torch.equal(torch.get_rng_state(), random)
        assert torch.equal(images, kept)

    first = features(model, images)
    check()
    assert torch.equal(first, features(model, images))
    with pytest.raises(RuntimeError):
        features(model, torch.zeros(2, 3, 9, 9))
    check()


def test_what_surrounds_the_call_does_not_matter(images: Tensor) -> None:
    model = network()
    expected = features(model, images)
    with torch.no_grad():
        assert torch.equal(features(model, images), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(features(model, images), expected)
    with torch.inference_mode():
        born_here = images.float() + 0
        assert torch.equal(features(model, born_here), expected)
    doubled = features(network().double(), images)
    assert doubled.dtype == torch.float32


def test_features_refuses(images: Tensor) -> None:
    with pytest.raises(ValueError, match="images is empty"):
        features(network(), images[:0])
    with pytest.raises(ValueError, match="batch_size=0"):
        features(network(), images, batch_size=0)
    with pytest.raises(ValueError, match="layer 'head' is not a module"):
        features(network(), images, layer="head")
    with pytest.raises(SourceLayerError, match="no final classifier"):
        features(nn.Sequential(nn.Conv2d(3, 2, 3)), images)
    mixing = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), network())
    with pytest.raises(ValueError, match="running statistics"):
        features(mixing, images)


@pytest.mark.gpu
def test_on_a_gpu(images: Tensor) -> None:
    model = network()
    expected = features(model, images)
    found = features(model.to("cuda"), images, batch_size=4)
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


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
def test_compactness_is_its_definition(
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


def test_compactness_ignores_units_and_compact_is_compact(torch_rng: torch.Generator) -> None:
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
    assert module.MAX_SILHOUETTE_SAMPLES == 5000
    labels = rng.permutation(np.repeat([0, 1, 2], [200, 80, 40]))
    points = rng.normal(size=(320, 4)) + labels[:, None]
    given = torch.from_numpy(points), torch.from_numpy(labels)
    whole = compactness(*given)
    monkeypatch.setattr(module, "MAX_SILHOUETTE_SAMPLES", 160)
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


def test_compactness_at_the_edges() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    crossed = compactness(torch.tensor([[-1.0], [1.0], [-2.0], [2.0]]), labels)
    assert math.isinf(crossed.scatter_ratio)
    collapsed = compactness(torch.full((4, 3), 7.0), labels)
    assert math.isnan(collapsed.scatter_ratio)
    assert collapsed.silhouette == 0
    points = compactness(torch.tensor([[1.0], [1.0], [2.0], [2.0]]), labels)
    assert points == Compactness(1.0, 0.0)


def test_compactness_refuses() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ValueError, match=r"accepted: \(N, D\) and \(N,\)"):
        compactness(torch.zeros(4, 2, 2), labels)
    with pytest.raises(ValueError, match=r"labels \(4,\)"):
        compactness(torch.zeros(3, 2), labels)
    with pytest.raises(ValueError, match="NaN or infinite"):
        compactness(torch.full((4, 2), float("nan")), labels)
    with pytest.raises(ValueError, match="1 classes for 4 samples"):
        compactness(torch.rand(4, 2), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="4 classes for 4 samples"):
        compactness(torch.rand(4, 2), torch.arange(4))


@pytest.fixture
def blobs(torch_rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three well-separated Gaussian blobs: train (131, 60) and its labels, other and its labels."""
    centres = torch.randn(3, 60, generator=torch_rng) * 8

    def draw(count: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(count) % 3
        return centres[labels] + torch.randn(count, 60, generator=torch_rng), labels

    return *draw(131), *draw(37)


def test_blobs_stay_apart_and_others_join_theirs(
    blobs: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    train, labels, other, other_labels = blobs
    kept, random, numpy_random = (
        (train.clone(), other.clone()),
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),  # noqa: NPY002  (the global one must not move)
    )
    drawn, placed = embed(train, other, seed=3, iterations=250)
    assert drawn.shape == (131, 2)
    assert placed.shape == (37, 2)
    assert drawn.dtype == placed.dtype == torch.float32
    own = torch.stack([drawn[labels == c].mean(0) for c in range(3)])
    for points, classes in ((drawn, labels), (placed, other_labels)):
        distances = torch.cdist(points, own)
        assert torch.equal(distances.argmin(1), classes)
        # Not merely nearest: the blobs' radii are well below the gaps between them.
        second = distances.topk(2, largest=False).values
        assert bool((second[:, 0] < second[:, 1] / 2).all())

    again = embed(train, other, seed=3, iterations=250)
    assert torch.equal(again[0], drawn)
    assert torch.equal(again[1], placed)
    # Others do not move the map, nor each other.
    alone, one = embed(train, other[:1], seed=3, iterations=250)
    assert torch.equal(alone, drawn)
    torch.testing.assert_close(one, placed[:1], rtol=0, atol=1e-3)

    assert torch.equal(train, kept[0])
    assert torch.equal(other, kept[1])
    assert torch.equal(torch.get_rng_state(), random)
    assert (np.random.get_state()[1] == numpy_random).all()  # noqa: NPY002


def test_embed_ignores_units(blobs: tuple[Tensor, Tensor, Tensor, Tensor]) -> None:
    train, labels, other, _ = blobs
    units = torch.logspace(-2, 3, 60)
    train[:, 5] = 2.0  # constant in training: carries nothing, whatever it is later
    other[:, 5] = 2.0
    plain, _ = embed(train.double(), other.double(), seed=0, iterations=60)
    scaled, _ = embed(train.double() * units + 7, other.double() * units + 7, seed=0, iterations=60)
    own = torch.stack([scaled[labels == c].mean(0) for c in range(3)])
    assert torch.equal(torch.cdist(scaled, own).argmin(1), labels)
    assert plain.isfinite().all()


@pytest.mark.parametrize("count", [4, 5, 8, 40])
def test_few_samples_lower_the_perplexity(count: int, torch_rng: torch.Generator) -> None:
    train = torch.rand(count, 3, generator=torch_rng)
    other = torch.rand(2, 3, generator=torch_rng)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the library warns where the perplexity is too high
        drawn, placed = embed(train, other, seed=0, iterations=30)
    assert drawn.isfinite().all()
    assert placed.isfinite().all()
    rule = (count - 1) / 3
    lowered, _ = embed(train, other, seed=0, iterations=30, perplexity=max(1.0, min(30.0, rule)))
    assert torch.equal(lowered, drawn)


def test_embed_refuses() -> None:
    train, other = torch.rand(9, 3), torch.rand(2, 3)
    for wrong in (torch.rand(2, 4), torch.rand(3)):
        with pytest.raises(ValueError, match=r"accepted: \(N, D\) and \(M, D\)"):
            embed(train, wrong, seed=0)
    with pytest.raises(ValueError, match="3 training and 2 other samples"):
        embed(train[:3], other, seed=0)
    with pytest.raises(ValueError, match="9 training and 0 other samples"):
        embed(train, other[:0], seed=0)
    with pytest.raises(ValueError, match="NaN or infinite"):
        embed(train, other / 0, seed=0)
    for name, value in (("seed", -1), ("perplexity", 0.5), ("iterations", 1)):
        with pytest.raises(ValueError, match=f"{name}={value}"):
            embed(train, other, **{"seed": 0, name: value})


def test_replicates_of_compactness_are_those_of_drawn_samples(torch_rng: torch.Generator) -> None:
    n, classes = 23, 3
    labels = torch.arange(n) % classes
    values = torch.randn(n, 4, generator=torch_rng) + labels[:, None]
    found = compactness_replicates(values, labels, replicates=5, seed=8)
    rng = np.random.default_rng(8)
    x, y = values.double().numpy(), labels.numpy()
    distance = np.sqrt(((x[:, None] - x) ** 2).sum(2))
    for k in range(5):
        drawn = rng.integers(0, n, n)
        scores = []
        for i in drawn:
            means = {}
            for c in range(classes):
                others = [j for j in drawn if y[j] == c and j != i]  # copies of i do not count
                if others:
                    means[c] = distance[i, others].mean()
            inside, outside = means[y[i]], min(m for c, m in means.items() if c != y[i])
            scores.append((outside - inside) / max(outside, inside))
        assert found["silhouette"][k] == pytest.approx(np.mean(scores), abs=1e-5)
        again = compactness(values[drawn], labels[drawn]).scatter_ratio
        assert found["scatter_ratio"][k] == pytest.approx(again, rel=1e-4)
    other = compactness_replicates(values * 3 + 2, labels, replicates=5, seed=8)
    for name, each in found.items():  # the same draws, and no units
        np.testing.assert_allclose(other[name], each, rtol=1e-4)
