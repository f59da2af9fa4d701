"""The twenty networks that people bring, each with the images of one race."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from family_list import varied
from torch import Tensor, nn


@dataclass(frozen=True)
class Contest:
    """A network and the images of its race.

    Attributes:
        build: Makes it.
        images: How many at a time.
        pixels: Height and width.
        wanted: How many times the best peer's speed ours should have.
    """

    build: Callable[[], nn.Module]
    images: int
    pixels: int
    wanted: float = 1.15


def timm_network(name: str, **options: Any) -> nn.Module:
    """A network of timm with fresh weights."""
    import timm

    model: nn.Module = timm.create_model(name, **options)
    return model


def torchvision_network(name: str) -> nn.Module:
    """A network of torchvision with fresh weights."""
    import torchvision

    model: nn.Module = torchvision.models.get_model(name, weights=None)
    return model


class DoubleConvolution(nn.Sequential):
    """Twice a 3×3 convolution, BatchNorm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        """Build the layers."""
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class UNet(nn.Module):
    """A U-Net: max pooling down, transposed convolutions up, concatenation across.

    Ronneberger, Fischer and Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation"
    (2015), with padding, BatchNorm and fewer channels. The classifier is a 1×1 convolution at every
    pixel.

    Args:
        channels: Of the levels, the finest first.
        classes: Of a pixel.
    """

    def __init__(self, channels: tuple[int, ...] = (16, 32, 64, 128), classes: int = 5) -> None:
        """Build the levels."""
        super().__init__()
        inputs = (3, *channels)
        self.down = nn.ModuleList(map(DoubleConvolution, inputs, channels))
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.across = nn.ModuleList(DoubleConvolution(2 * b, b) for _, b in pairs)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(channels[0], classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes, H, W) of images (N, 3, H, W); H and W are multiples of the finest."""
        kept: list[Tensor] = []
        x = images
        for level in self.down:
            x = level(self.pool(x) if kept else x)
            kept.append(x)
        kept.pop()
        for up, across in zip(self.up, self.across, strict=True):
            x = across(torch.cat([kept.pop(), up(x)], 1))
        return self.head(x)  # type: ignore[no-any-return]


def _timm(name: str, images: int, pixels: int, wanted: float = 1.15, **options: Any) -> Contest:
    return Contest(partial(timm_network, name, **options), images, pixels, wanted)


MOBILE = 1.3  # what MobileNets and EfficientNets should reach
CONTESTS: dict[str, Contest] = {
    "mobilenetv3_small_100": _timm("mobilenetv3_small_100", 8, 96, MOBILE),
    "mobilenetv4_conv_small": _timm("mobilenetv4_conv_small", 8, 96, MOBILE),
    "regnety_004": _timm("regnety_004", 8, 96),
    "resnet50": Contest(partial(torchvision_network, "resnet50"), 8, 96),
    "resnext50_32x4d": Contest(partial(torchvision_network, "resnext50_32x4d"), 8, 64),
    "densenet121": Contest(partial(torchvision_network, "densenet121"), 8, 64),
    "fastvit_t8": _timm("fastvit_t8", 4, 128),
    "efficientnet_b0": _timm("efficientnet_b0", 8, 96, MOBILE),
    "efficientnet_b0, 64 images": _timm("efficientnet_b0", 64, 96, MOBILE),
    "convnext_tiny": _timm("convnext_tiny", 4, 96),
    "vit_tiny": _timm("vit_tiny_patch16_224", 8, 96, img_size=96),
    "swin_tiny": _timm("swin_tiny_patch4_window7_224", 4, 112, img_size=112),
    "efficientvit_b0": _timm("efficientvit_b0", 8, 96),
    "tf_efficientnetv2_b0": _timm("tf_efficientnetv2_b0", 8, 96, MOBILE),
    "ghostnet_100": _timm("ghostnet_100", 8, 96),
    "repvgg_a0": _timm("repvgg_a0", 8, 96),
    "nf_resnet26": _timm("nf_resnet26", 8, 96),
    "deit3_small": _timm("deit3_small_patch16_224", 4, 96, img_size=96),
    "mobilevit_xxs": _timm("mobilevit_xxs", 8, 128),
    "unet": Contest(UNet, 4, 64),
}
# Where torch.compile takes part: one of each kind.
COMPILED = (
    "mobilenetv3_small_100",
    "resnet50",
    "efficientnet_b0",
    "convnext_tiny",
    "vit_tiny",
    "unet",
)


def build(name: str) -> nn.Module:
    """A network of `CONTESTS` in evaluation mode, with seeded weights; see `family_list.varied`."""
    torch.manual_seed(0)
    return varied(CONTESTS[name].build()).eval()
