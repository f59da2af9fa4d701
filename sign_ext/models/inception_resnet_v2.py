"""Inception-ResNet-v2 from timm, the paper's network for ISIC-2017."""

from __future__ import annotations

from torch import nn

# Its unpadded convolutions and poolings leave no pixel of a smaller image.
SMALLEST = 75


def inception_resnet_v2(
    num_classes: int, image_shape: tuple[int, int, int], *, dropout: float = 0.0
) -> nn.Module:
    """Build Inception-ResNet-v2 with new weights.

    Args:
        num_classes: number of logits.
        image_shape: (C, H, W), at least 75×75 pixels; the published size is 299×299.
        dropout: drop probability before the classifier, 0 ≤ p < 1.

    Returns:
        timm's module.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: too small an image.

    Source: Szegedy et al., "Inception-v4, Inception-ResNet and the Impact of Residual Connections
    on Learning", 2016.
    """
    import timm

    if min(image_shape[1:]) < SMALLEST:
        raise ValueError(
            f"image_shape={image_shape} is too small for inception_resnet_v2, whose unpadded "
            f"convolutions need at least {SMALLEST}×{SMALLEST} pixels (published: 299×299). "
            f"Load the data with image_size={SMALLEST} or more, or use another model."
        )
    return timm.create_model(
        "inception_resnet_v2", pretrained=False, num_classes=num_classes, drop_rate=dropout
    )
