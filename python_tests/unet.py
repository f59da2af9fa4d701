"""A small U-Net for tests and benchmarks: an encoder, a decoder, and what is passed across."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class UNet(nn.Module):
    """Halves an image a few times, doubles it again, and concatenates the levels.

    Args:
        width: channels at full size; each level has twice as many.
        levels: how often it is halved.
        up: "transposed" convolution or "bilinear" interpolation.
        norm: "batch" or "group".
        classes: channels of the output.
    """

    def __init__(
        self,
        width: int = 8,
        levels: int = 2,
        *,
        up: str = "transposed",
        norm: str = "batch",
        classes: int = 3,
    ) -> None:
        """Fresh weights."""
        super().__init__()
        sizes = [width << level for level in range(levels + 1)]
        self.down = nn.ModuleList()
        for before, after in zip([3, *sizes], sizes, strict=False):
            self.down.append(block(before, after, norm))
        self.pool = nn.MaxPool2d(2)
        self.up, self.join = nn.ModuleList(), nn.ModuleList()
        for large, small in zip(sizes[:0:-1], sizes[-2::-1], strict=True):
            if up == "transposed":
                self.up.append(nn.ConvTranspose2d(large, small, 2, 2))
            else:
                bilinear = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
                self.up.append(nn.Sequential(bilinear, nn.Conv2d(large, small, 1)))
            self.join.append(block(2 * small, small, norm))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of each pixel.

        Args:
            x: (N, 3, H, W), H and W multiples of 2 ** levels.
        """
        levels = []
        for i, block in enumerate(self.down):
            x = block(self.pool(x) if i else x)
            levels.append(x)
        for up, join, skip in zip(self.up, self.join, levels[-2::-1], strict=True):
            x = join(torch.cat([skip, up(x)], 1))
        return self.head(x)


def block(before: int, after: int, norm: str) -> nn.Sequential:
    """Twice convolution, normalisation, ReLU."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, 3, padding=1, bias=norm == "group"))
        layers.append(nn.BatchNorm2d(after) if norm == "batch" else nn.GroupNorm(4, after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)
