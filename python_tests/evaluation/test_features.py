"""Features are the values at SIGN's own layer, computed by hand, and the model is left alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sign_ext import SignTransform, SourceLayerError
from sign_ext.evaluation import features
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


def test_refusals(images: Tensor) -> None:
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
