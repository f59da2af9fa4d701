"""Each network against its description: sizes, order of layers, strides."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from sign_ext.models import build_model
from sign_ext.models.inception_resnet_v2 import SMALLEST


def parameters(model: nn.Module) -> int:
    return sum(each.numel() for each in model.parameters())


@pytest.mark.parametrize("padding", ["same", "keras"])
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (10, 11)])
def test_basic_cnn_parameter_count(padding: str, size: tuple[int, int]) -> None:
    lost = 0 if padding == "same" else 2
    height, width = (((side - lost) // 2 - lost) // 2 for side in size)
    convolutions = (27 + 1) * 32 + (9 * 32 + 1) * 32 + (9 * 32 + 1) * 64 + (9 * 64 + 1) * 64
    expected = convolutions + (64 * height * width + 1) * 512 + (512 + 1) * 7
    model = build_model("basic_cnn", num_classes=7, image_shape=(3, *size), padding=padding)
    assert parameters(model) == expected
    assert model(torch.zeros(1, 3, *size)).shape == (1, 7)


def test_basic_cnn_layers_are_the_papers() -> None:
    block = ["Conv2d", "ReLU", "Conv2d", "ReLU", "MaxPool2d", "Dropout"]
    tail = ["Flatten", "Linear", "ReLU", "Dropout", "Linear"]
    network = build_model("basic_cnn").network
    assert [type(each).__name__ for each in network] == [*block, *block, *tail]
    assert [each.p for each in network if isinstance(each, nn.Dropout)] == [0.3] * 3


@pytest.mark.parametrize("padding", ["same", "keras"])
def test_basic_cnn_computes_what_it_says(padding: str, torch_rng: torch.Generator) -> None:
    model = build_model("basic_cnn", image_shape=(3, 19, 22), padding=padding).eval()
    images = torch.rand(3, 3, 19, 22, generator=torch_rng) * 255
    weight = {name: value.double() for name, value in model.state_dict().items()}
    features = images.double() / 255
    for block in (1, 2):
        for half, pad in (("a", 1), ("b", 1 if padding == "same" else 0)):
            name = f"network.conv{block}{half}"
            features = functional.conv2d(
                features, weight[f"{name}.weight"], weight[f"{name}.bias"], padding=pad
            ).clamp(min=0)
        rows, columns = (side // 2 for side in features.shape[2:])
        features = features[:, :, : 2 * rows, : 2 * columns]
        features = features.reshape(3, -1, rows, 2, columns, 2).amax((3, 5))
    hidden = features.flatten(1) @ weight["network.hidden.weight"].T + weight["network.hidden.bias"]
    logits = hidden.clamp(min=0) @ weight["network.classifier.weight"].T
    logits = logits + weight["network.classifier.bias"]
    with torch.no_grad():
        np.testing.assert_allclose(model(images).numpy(), logits.numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("stride", "expected"), [(32, (1, 1)), (8, (4, 4))])
def test_mobilenet_stride(stride: int, expected: tuple[int, int]) -> None:
    model = build_model("mobilenet_v2", stride=stride).eval()
    with torch.no_grad():
        features = model.network.features(model.normalize(torch.zeros(1, 3, 32, 32)))
    assert features.shape[2:] == expected
    strides = [each.stride[0] for each in model.modules() if isinstance(each, nn.Conv2d)]
    assert np.prod(strides) == stride


def test_published_sizes() -> None:
    # The counts that torchvision and timm publish for their 1,000-class networks.
    published = {"mobilenet_v2": 3_504_872, "inception_resnet_v2": 55_843_464}
    for name, count in published.items():
        model = build_model(name, num_classes=1000, image_shape=(3, 299, 299))
        assert parameters(model) == count


def test_mobilenet_width() -> None:
    half = build_model("mobilenet_v2", width=0.5)
    assert half.network.features[0][0].out_channels == 16
    assert half.network.classifier[1].in_features == 1280


def test_inceptions_smallest_image_is_the_smallest() -> None:
    model = build_model("inception_resnet_v2", image_shape=(3, SMALLEST, SMALLEST)).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, SMALLEST, SMALLEST)).shape == (1, 10)
        with pytest.raises(RuntimeError, match="size"):
            model(torch.zeros(1, 3, SMALLEST - 1, SMALLEST - 1))
