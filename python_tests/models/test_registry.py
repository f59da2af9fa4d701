"""Models by name: their interface and error messages."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sign_ext.models import MODEL_NAMES, Normalize, build_model, model_options

SHAPES = {
    "basic_cnn": (3, 33, 47),
    "mobilenet_v2": (3, 33, 47),
    "inception_resnet_v2": (3, 75, 80),
    "nasnet_mobile": (3, 33, 47),
}


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_pixels_in_logits_out(name: str, torch_rng: torch.Generator) -> None:
    shape = SHAPES[name]
    model = build_model(name, num_classes=7, image_shape=shape).eval()
    first_name, first = next(iter(model.named_children()))
    assert first_name == "normalize"
    assert isinstance(first, Normalize)

    seen = []
    convolution = next(each for each in model.modules() if isinstance(each, nn.Conv2d))
    convolution.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].clone()))
    images = torch.rand(2, *shape, generator=torch_rng) * 255
    kept = images.clone()
    with torch.no_grad():
        logits = model(images)
    assert logits.shape == (2, 7)
    assert torch.isfinite(logits).all()
    assert torch.equal(images, kept)
    np.testing.assert_allclose(seen[0].numpy(), images.numpy() / 255, rtol=1e-6)


def test_unknown_names_and_options() -> None:
    with pytest.raises(ValueError, match="Did you mean 'basic_cnn'") as caught:
        build_model("basiccnn")
    for name in MODEL_NAMES:
        assert name in str(caught.value)
    with pytest.raises(ValueError, match="'resnet18' is not a model; accepted: basic_cnn"):
        model_options("resnet18")
    with pytest.raises(ValueError, match=r"'droput' is not an option of basic_cnn.*mean 'dropout'"):
        build_model("basic_cnn", droput=0.1)
    with pytest.raises(ValueError, match="'padding' is not an option of mobilenet_v2"):
        build_model("mobilenet_v2", padding="same")


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("basic_cnn", {"dropout": 1.0}, r"dropout=1\.0"),
        ("basic_cnn", {"dropout": -0.1}, "dropout=-0.1"),
        ("basic_cnn", {"padding": "valid"}, "padding='valid'; accepted: 'same' or 'keras'"),
        ("basic_cnn", {"num_classes": 0}, "num_classes=0"),
        ("basic_cnn", {"image_shape": (1, 32, 32)}, "image_shape="),
        ("basic_cnn", {"image_shape": (32, 32)}, "image_shape="),
        ("basic_cnn", {"image_shape": (3, 3, 32)}, "at least 4×4"),
        ("basic_cnn", {"image_shape": (3, 32, 9), "padding": "keras"}, "at least 10×10"),
        ("mobilenet_v2", {"stride": 16}, "stride=16; accepted: 32"),
        ("mobilenet_v2", {"width": 0.0}, "width=0.0"),
        ("nasnet_mobile", {"repeats": 0}, "repeats=0; accepted: .*4 as published"),
        ("nasnet_mobile", {"filters": 10}, "filters=10; accepted: a multiple of 4"),
        ("nasnet_mobile", {"image_shape": (3, 32, 2)}, "at least 3×3"),
        ("inception_resnet_v2", {}, r"at least 75×75 .*image_size=75"),
    ],
)
def test_values_out_of_range(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, **arguments)


def test_options_have_defaults_and_act() -> None:
    assert model_options("basic_cnn") == {"dropout": 0.3, "padding": "same"}
    assert model_options("mobilenet_v2") == {"stride": 32, "width": 1.0, "dropout": 0.2}
    assert model_options("inception_resnet_v2") == {"dropout": 0.0}
    for name, layers in (("basic_cnn", 3), ("mobilenet_v2", 1)):
        model = build_model(name, dropout=0.125)
        drops = [each.p for each in model.modules() if isinstance(each, nn.Dropout)]
        assert drops == [0.125] * layers


def test_weights_follow_the_global_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build_model("basic_cnn").state_dict()["network.conv1a.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])
