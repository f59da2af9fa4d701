"""MobileNetV2 from torchvision, as published or with less downsampling."""

from __future__ import annotations

from typing import Literal

from torch import nn

STRIDES = (32, 8)

# Expansion, channels, blocks, stride of the first block: Table 2 of the MobileNetV2 paper.
PUBLISHED = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    stride: Literal[32, 8] = 32,
    width: float = 1.0,
    dropout: float = 0.2,
) -> nn.Module:
    """Build MobileNetV2 with new weights.

    Args:
        num_classes: number of logits.
        image_shape: (C, H, W); of any size, since the features are averaged over the image.
        stride: of the whole network, 32 as published (at 32×32 the last features are 1×1) or 8:
            then the first convolution and the first block with 24 channels have stride 1 instead
            of 2 (at 32×32 the last features are 4×4).
        width: multiplies the number of channels.
        dropout: drop probability before the classifier, 0 ≤ p < 1.

    Returns:
        torchvision's module.

    Raises:
        ModuleNotFoundError: torchvision is not installed.
        ValueError: an option out of range.

    Source: Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", 2018.
    """
    import torchvision

    if stride not in STRIDES:
        raise ValueError(f"stride={stride!r}; accepted: 32 (as published) or 8.")
    if not 0 < width < float("inf"):
        raise ValueError(f"width={width!r}; accepted: a finite number above 0, 1.0 as published.")
    stages = [list(stage) for stage in PUBLISHED]
    if stride == 8:
        stages[1][3] = 1
    network = torchvision.models.MobileNetV2(
        num_classes=num_classes,
        width_mult=width,
        inverted_residual_setting=stages,
        dropout=dropout,
    )
    if stride == 8:
        network.features[0][0].stride = (1, 1)
    return network
