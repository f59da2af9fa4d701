"""A network's preprocessing as its first module: the formula, the units, and what is recorded."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from networks import step_for
from torch import nn

from sign_ext import PixelRangeWarning, SignTransform, iterative_sign
from sign_ext.models import (
    NetworkName,
    Normalize,
    parse_network_name,
    recorded_normalization,
    with_normalization,
)
from sign_ext.models.normalize import constants_of, in_pixel_units, own_normalization

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalize_is_the_formula(rng: np.random.Generator) -> None:
    images = rng.uniform(0, 255, (2, 3, 5, 7)).astype(np.float32)
    mean, std = (125.3, 122.9, 113.8), (62.9, -62.0, 66.7)
    found = Normalize(mean, std)(torch.from_numpy(images)).numpy()
    expected = np.empty(images.shape)
    for channel in range(3):
        expected[:, channel] = (images[:, channel].astype(np.float64) - mean[channel]) / std[
            channel
        ]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert not list(Normalize().parameters())
    assert set(Normalize().state_dict()) == {"mean", "std"}


@pytest.mark.parametrize(
    ("mean", "std"), [((0,), (1, 1)), ((), ()), ((0,), (0,)), ((float("nan"),), (1,))]
)
def test_normalize_refuses(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="accepted"):
        Normalize(mean, std)


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        (IMAGENET_MEAN, IMAGENET_STD, ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))),
        ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4), ((123.7, 116.3, 103.5), (58.4, 57.1, 57.4))),
        (0.5, 0.5, ((127.5,) * 3, (127.5,) * 3)),
        ((0.5,), (0.25,), ((127.5,), (63.75,))),
        ((0.1, 0.2), 0.5, ((25.5, 51.0), (127.5, 127.5))),
        ((0, 0, 0), (255, 255, 255), ((0.0,) * 3, (255.0,) * 3)),
        ((103.9, 116.8, 123.7), (1, 1, 1), ((103.9, 116.8, 123.7), (1.0,) * 3)),
        ((0, 0, 0), (0.2, 0.3, 0.4), ((0.0,) * 3, (51.0, 76.5, 102.0))),
    ],
)
def test_units_are_understood_by_their_size(mean, std, expected) -> None:
    for found, wanted in zip(in_pixel_units(mean, std), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0, 0, 0), (1, 1, 1), "value_range=1 or 255"),
        (IMAGENET_MEAN, (58.4, 57.1, 57.4), "same units"),
        ((123.7, 116.3, 103.5), IMAGENET_STD, "same units"),
        ((0.5, 0.5), (0.5, 0.5, 0.5), "as many values"),
        (0.5, 0, "no std of 0"),
        ((0.5, float("nan"), 0.5), 0.5, "finite"),
        ("half", 0.5, "accepted: a"),
        ([[0.5]], 0.5, "accepted: a"),
    ],
)
def test_units_that_cannot_be_told_are_refused(mean, std, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        in_pixel_units(mean, std)


def test_a_stated_range_decides() -> None:
    assert in_pixel_units(0, 1, value_range=1) == ((0.0,) * 3, (255.0,) * 3)
    assert in_pixel_units(0, 1, value_range=255) == ((0.0,) * 3, (1.0,) * 3)
    with pytest.raises(ValueError, match="value_range=2; accepted: 1, 255"):
        in_pixel_units(0, 1, value_range=2)  # type: ignore[arg-type]


def small_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 7, 3, stride=2),
        nn.BatchNorm2d(7),
        nn.ReLU(),
        nn.Conv2d(7, 11, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(11, 5),
    )


@pytest.mark.parametrize("backend", ["fused", "autograd"])
def test_delta_is_that_of_the_network_on_normalised_images(
    backend: str, torch_rng: torch.Generator
) -> None:
    """By the chain rule it is the network's own gradient at (x − mean) / std, over std."""
    network = small_network().eval()
    model = with_normalization(network, IMAGENET_MEAN, IMAGENET_STD)
    images = torch.rand(3, 3, 33, 47, generator=torch_rng) * 255
    exact = small_network().double().eval()
    exact.load_state_dict(network.state_dict())
    mean, std = (
        torch.tensor(values, dtype=torch.float64).view(3, 1, 1) * 255
        for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    inner = ((images.double() - mean) / std).requires_grad_()
    exact[:-1](inner).sum().backward()
    delta = inner.grad / std
    step = step_for(delta)

    found = iterative_sign(model, images, steps=1, step_size=step, backend=backend)
    # p's own rounding is up to 1.5e-5 at 255; δ moves pixels by 5 grey levels.
    torch.testing.assert_close(found.double() - images.double(), step * delta, rtol=1e-4, atol=1e-4)


def test_layers_are_named_inside_network() -> None:
    model = with_normalization(small_network().eval(), 0.5, 0.5)
    images = torch.rand(2, 3, 19, 21) * 255
    sign = SignTransform(model, steps=1, step_size=1.0, layer="network.4")
    assert "network.4" in str(sign.explain(images))


def test_what_a_network_carries_is_kept() -> None:
    network = small_network()
    network.class_names = ("a", "b")
    model = with_normalization(network, 0.5, 0.5)
    assert model.network is network
    assert model.class_names == ("a", "b")
    assert model.training
    assert model.normalize.training
    assert not with_normalization(network.eval(), 0.5, 0.5).training
    assert [name for name, _ in model.named_children()] == ["normalize", "network"]


def test_records_of_timm_and_torchvision() -> None:
    import timm

    # Google's networks were trained on values of −1…1.
    for name, mean, std in (
        ("timm:resnet18.tv_in1k", IMAGENET_MEAN, IMAGENET_STD),
        ("timm:mixer_s16_224", (0.5,) * 3, (0.5,) * 3),
        ("torchvision:mobilenet_v3_small", IMAGENET_MEAN, IMAGENET_STD),
        ("torchvision:efficientnet_v2_l", (0.5,) * 3, (0.5,) * 3),
    ):
        found = recorded_normalization(parse_network_name(name))
        assert found is not None
        np.testing.assert_allclose(found, 255 * np.array([mean, std]))
    network = timm.create_model("resnet10t", num_classes=2)
    found = recorded_normalization(network)
    assert found is not None
    np.testing.assert_allclose(found, 255 * np.array([IMAGENET_MEAN, IMAGENET_STD]))
    assert recorded_normalization(small_network()) is None
    assert recorded_normalization(NetworkName("function", "nets:make")) is None
    with pytest.raises(ValueError, match="did you mean 'resnet10t'"):
        recorded_normalization(NetworkName("timm", "resnet10"))


def test_a_network_that_begins_with_a_normalisation() -> None:
    class Like(nn.Module):  # torchvision's has lists, kornia's tensors of shape (1, 3)
        def __init__(self, mean, std) -> None:
            super().__init__()
            self.mean, self.std = mean, std

    like = type("Normalize", (Like,), {})
    for module in (like([0.5, 0.4], [0.2, 0.1]), like(*torch.tensor([[[0.5, 0.4]], [[0.2, 0.1]]]))):
        network = nn.Sequential(nn.Sequential(module, nn.ReLU()), nn.ReLU())
        assert own_normalization(network) is module
        np.testing.assert_allclose(constants_of(module), [[0.5, 0.4], [0.2, 0.1]], rtol=1e-6)
    assert own_normalization(nn.Sequential(nn.ReLU(), like([0.5], [0.2]))) is None
    assert own_normalization(nn.Sequential(type("Normalize", (nn.Module,), {})())) is None


def test_a_second_normalisation_is_warned_of():
    inner = with_normalization(
        nn.Sequential(nn.Flatten(), nn.Linear(3, 2)), IMAGENET_MEAN, IMAGENET_STD
    )
    with pytest.warns(PixelRangeWarning, match=r"begins with .* mean 123\.7.* normalised twice"):
        with_normalization(inner, IMAGENET_MEAN, IMAGENET_STD)


def test_a_division_before_a_normalisation_for_zero_to_one_is_not():
    v2 = pytest.importorskip("torchvision.transforms.v2")
    network = nn.Sequential(
        v2.Normalize(IMAGENET_MEAN, IMAGENET_STD), nn.Flatten(), nn.Linear(3, 2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_normalization(network, 0, 255)
    with pytest.warns(PixelRangeWarning, match="mean=0, std=255"):
        with_normalization(network, IMAGENET_MEAN, IMAGENET_STD)
