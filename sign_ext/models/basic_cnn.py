"""BasicCNN, the paper's small network (Section 3)."""

from __future__ import annotations

from collections import OrderedDict
from typing import Literal

from torch import nn

PADDINGS = ("same", "keras")
CHANNELS = (32, 64)
HIDDEN = 512


def basic_cnn(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    dropout: float = 0.3,
    padding: Literal["same", "keras"] = "same",
) -> nn.Sequential:
    """Build the paper's BasicCNN: two convolutional blocks, a hidden layer and a classifier.

    [Conv32-ReLU-Conv32-ReLU-MaxPool-Dropout] → [Conv64-ReLU-Conv64-ReLU-MaxPool-Dropout] →
    [FC512-ReLU-Dropout] → classifier, with 3×3 kernels and 2×2 poolings.

    Args:
        num_classes: number of logits.
        image_shape: (C, H, W); determines the size of the hidden layer.
        dropout: drop probability of all three dropout layers, 0 ≤ p < 1 (the paper: 0.3).
        padding: the paper does not state it. ``"same"`` pads every convolution; ``"keras"`` pads
            the first of each pair only, as the Keras CIFAR-10 example does.

    Returns:
        A plain Sequential with named layers.

    Raises:
        ValueError: an option out of range, or an image too small for two poolings.

    Example:
        >>> sum(p.numel() for p in basic_cnn(10, (3, 32, 32)).parameters())
        2168362
    """
    if padding not in PADDINGS:
        raise ValueError(f"padding={padding!r}; accepted: {' or '.join(map(repr, PADDINGS))}.")
    channels, height, width = image_shape
    second_padding = 1 if padding == "same" else 0
    for _ in CHANNELS:
        height, width = ((side - 2 + 2 * second_padding) // 2 for side in (height, width))
    if height < 1 or width < 1:
        smallest = 4 if padding == "same" else 10
        raise ValueError(
            f"image_shape={image_shape} is too small for basic_cnn with padding={padding!r}; "
            f"accepted: at least {smallest}×{smallest} pixels. Use a larger image_size."
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for block, out_channels in enumerate(CHANNELS, start=1):
        layers[f"conv{block}a"] = nn.Conv2d(channels, out_channels, 3, padding=1)
        layers[f"relu{block}a"] = nn.ReLU()
        layers[f"conv{block}b"] = nn.Conv2d(out_channels, out_channels, 3, padding=second_padding)
        layers[f"relu{block}b"] = nn.ReLU()
        layers[f"pool{block}"] = nn.MaxPool2d(2)
        layers[f"dropout{block}"] = nn.Dropout(dropout)
        channels = out_channels
    layers["flatten"] = nn.Flatten()
    layers["hidden"] = nn.Linear(channels * height * width, HIDDEN)
    layers["relu3"] = nn.ReLU()
    layers["dropout3"] = nn.Dropout(dropout)
    layers["classifier"] = nn.Linear(HIDDEN, num_classes)
    return nn.Sequential(layers)
