"""The twenty networks that the engine is measured on, at sizes for tests: thin, shallow, odd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F


def thin(name: str, **options: Any) -> nn.Module:
    """A network of timm with other widths and depths; skips the test where timm is missing."""
    timm = pytest.importorskip("timm")
    return timm.create_model(name, num_classes=5, **options)


def redrawn(network: nn.Module) -> nn.Module:
    """With norms' weights as others have them: these are so small that nothing passes them all."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.6, 1.4)
    return network


class UNet(nn.Module):
    """Two levels down and up, joined by concatenation; classifies from the mean of the map."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        sizes = [channels, 2 * channels, 4 * channels]
        self.down = nn.ModuleList(
            self.block(a, b) for a, b in zip([3, *sizes], sizes, strict=False)
        )
        self.turned = nn.ConvTranspose2d(sizes[2], sizes[1], 2, stride=2)
        self.halved = nn.Conv2d(sizes[1], sizes[0], 1)
        self.up = nn.ModuleList(
            [self.block(2 * sizes[1], sizes[1]), self.block(2 * sizes[0], sizes[0])]
        )
        self.classifier = nn.Linear(sizes[0], 5)

    @staticmethod
    def block(before: int, after: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for first in (before, after):
            layers += [nn.Conv2d(first, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)]
            layers.append(nn.ReLU(inplace=True))
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        third = self.down[2](F.max_pool2d(second, 2))
        y = self.turned(third)
        y = F.pad(y, (0, second.shape[3] - y.shape[3], 0, second.shape[2] - y.shape[2]))
        y = self.up[0](torch.cat([second, y], 1))
        y = F.interpolate(self.halved(y), first.shape[2:], mode="bilinear", align_corners=False)
        y = self.up[1](torch.cat([first, y], 1))
        return self.classifier(y.mean((2, 3)))


Size = tuple[int, int]
TWENTY: dict[str, tuple[Callable[[], nn.Module], Size]] = {
    "mobilenetv3_small": (lambda: thin("mobilenetv3_small_050"), (33, 47)),
    "mobilenetv4_conv_small": (lambda: thin("mobilenetv4_conv_small_050"), (33, 47)),
    "regnety_004": (lambda: thin("regnety_002"), (33, 47)),
    "resnet50": (
        lambda: thin("resnet50", layers=(1, 1, 2, 1), channels=(8, 12, 16, 24)),
        (33, 47),
    ),
    "resnext50": (
        lambda: thin(
            "resnext50_32x4d", layers=(1, 1, 2, 1), cardinality=4, channels=(32, 32, 64, 64)
        ),
        (33, 47),
    ),
    "densenet121": (
        lambda: thin("densenet121", growth_rate=8, block_config=(2, 3, 2, 2)),
        (33, 47),
    ),
    "fastvit_t8": (
        lambda: thin("fastvit_t8", layers=(1, 1, 2, 1), embed_dims=(16, 32, 64, 64)),
        (64, 96),
    ),
    "efficientnet_b0": (lambda: thin("efficientnet_b0"), (33, 47)),
    "convnext_tiny": (
        lambda: thin("convnext_tiny", depths=(1, 1, 2, 1), dims=(8, 16, 24, 32)),
        (47, 65),
    ),
    "vit_tiny": (
        lambda: thin("vit_tiny_patch16_224", img_size=(48, 32), depth=3, embed_dim=48),
        (48, 32),
    ),
    "swin_tiny": (
        lambda: thin(
            "swin_tiny_patch4_window7_224", img_size=(56, 56), depths=(2, 2), embed_dim=24,
            num_heads=(2, 4), window_size=7,
        ),
        (56, 56),
    ),
    "efficientvit_b0": (
        lambda: thin("efficientvit_b0", depths=(1, 1, 1, 1), widths=(4, 8, 16, 16, 32)),
        (64, 96),
    ),
    "efficientnetv2_b0": (lambda: thin("tf_efficientnetv2_b0", channel_multiplier=0.25), (33, 47)),
    "ghostnet": (lambda: thin("ghostnet_050"), (33, 47)),
    "repvgg_a0": (lambda: redrawn(thin("repvgg_a0")), (33, 47)),
    "nf_resnet26": (lambda: thin("nf_resnet26"), (33, 47)),
    "deit3_small": (
        lambda: thin(
            "deit3_small_patch16_224", img_size=(32, 48), depth=3, embed_dim=48, num_heads=3
        ),
        (32, 48),
    ),
    "mobilevit_xxs": (lambda: thin("mobilevit_xxs"), (64, 96)),
    "unet": (UNet, (33, 47)),
    "resnest14d": (lambda: thin("resnest14d"), (33, 47)),
}  # fmt: skip

# Those that `make test` runs.
QUICK_TWENTY = ("resnet50", "densenet121", "convnext_tiny", "vit_tiny", "swin_tiny", "unet")
# Their float64 is not exact: EfficientViT's attention is in float32 always, and PyTorch's
# derivative of hardsigmoid has 1/6 in float32.
COARSE = ("efficientvit_b0", "mobilenetv3_small", "ghostnet")


def classifier_of(network: nn.Module) -> nn.Module:
    """The last layer, whose input is what Φ gives."""
    return network.classifier if isinstance(network, UNet) else network.get_classifier()
