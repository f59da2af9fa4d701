"""The network families that the compiler covers completely, each with an odd image size."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pytest
import torch
from networks import basic_cnn
from torch import nn


def tv(name: str) -> nn.Module:
    """A model of torchvision; skips the test where that is not installed."""
    torchvision = pytest.importorskip("torchvision")
    options = {"aux_logits": False} if name == "googlenet" else {}
    options |= {"init_weights": False} if "ception" in name or name == "googlenet" else {}
    return torchvision.models.get_model(name, weights=None, **options)


def vgg11_bn() -> nn.Module:
    """torchvision's with few features between its linear layers, where most weights are."""
    vgg = pytest.importorskip("torchvision.models.vgg")
    features = vgg.make_layers(vgg.cfgs["A"], batch_norm=True)
    with torch.device("meta"):
        network = vgg.VGG(features)
    for place, sizes in ((0, (512 * 7 * 7, 48)), (3, (48, 40)), (6, (40, 10))):
        network.classifier[place] = nn.Linear(*sizes)
    return network


def timm_model(name: str, **options: int) -> nn.Module:
    """A model of timm; skips the test where that is not installed."""
    timm = pytest.importorskip("timm")
    return timm.create_model(name, **options)


FAMILIES = {
    "basic_cnn": (lambda: basic_cnn(8, 12, 6), (8, 12)),
    "mobilenet_v2": (lambda: tv("mobilenet_v2"), (33, 47)),
    "mobilenet_v3": (lambda: tv("mobilenet_v3_small"), (33, 32)),
    "resnet18": (lambda: tv("resnet18"), (39, 33)),
    "resnext": (lambda: tv("resnext50_32x4d"), (33, 35)),
    "vgg11_bn": (vgg11_bn, (33, 47)),
    "squeezenet": (lambda: tv("squeezenet1_1"), (33, 47)),
    "googlenet": (lambda: tv("googlenet"), (47, 33)),
    "efficientnet": (lambda: tv("efficientnet_b0"), (33, 47)),
    "densenet": (lambda: tv("densenet121"), (33, 47)),
    "inception_resnet_v2": (lambda: timm_model("inception_resnet_v2"), (77, 79)),
    "nasnet": (lambda: timm_model("nasnetalarge", stem_size=12, num_features=384), (35, 33)),
}

# Those that `make test` runs. The others take longer to compile and differentiate in float64.
QUICK_FAMILIES = ("basic_cnn", "mobilenet_v3", "resnet18", "squeezenet")


def some_slow(names: Iterable[str], quick: Collection[str]) -> list:
    """Names for `parametrize`; those that are not quick are marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]
