"""The digits' test images moved, scaled and with less contrast: a stand-in for Tiny ImageNet."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sign_ext.data.datasets.digits import CLASS_NAMES, digits_pool
from sign_ext.data.image_set import ImageSet
from sign_ext.data.splits import three_way_split

# The set is part of an experiment's definition, so its seed and amounts are not options.
SHIFT_SEED = 0
LARGEST_SHIFT = 0.125  # of the width: 4 of 32 pixels
SCALES = (0.75, 1.25)
CONTRASTS = (0.4, 1.0)


def load_digits_shifted(image_size: int | None = None) -> ImageSet:
    """Read the digits' 269 test images, each changed by amounts of its own.

    Args:
        image_size: height and width in pixels; None for 32. The amounts do not depend on it.

    Returns:
        uint8 images with the digits' ten classes, in the order of the digits' test set.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    pool = digits_pool(image_size)
    _, _, test = three_way_split(pool.labels)
    shifts, scales, contrasts = shift_amounts(len(test))
    images = shift_images(pool.read(test), shifts, scales, contrasts)
    name = "digits_shifted (stand-in for tiny_imagenet)"
    return ImageSet(images, torch.from_numpy(pool.labels[test]), CLASS_NAMES, name)


def shift_amounts(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw how each image is changed; the same numbers in every run.

    Args:
        count: number of images.

    Returns:
        float64: shifts (count, 2) to the right and down in widths of the image, scales (count,)
        and contrasts (count,), each uniform in its range.
    """
    # RandomState, because NumPy promises that its numbers never change between releases.
    random = np.random.RandomState(SHIFT_SEED)
    shifts = random.uniform(-LARGEST_SHIFT, LARGEST_SHIFT, (count, 2))
    scales = random.uniform(*SCALES, count)
    contrasts = random.uniform(*CONTRASTS, count)
    return torch.from_numpy(shifts), torch.from_numpy(scales), torch.from_numpy(contrasts)


def shift_images(images: Tensor, shifts: Tensor, scales: Tensor, contrasts: Tensor) -> Tensor:
    """Scale images about their centre, move them, and pull their grey levels towards the middle.

    Args:
        images: uint8 (N, C, H, W).
        shifts: float64 (N, 2), to the right and down, in widths and heights of the image.
        scales: float64 (N,), above 1 enlarges.
        contrasts: float64 (N,), factor of the distance from grey level 127.5.

    Returns:
        uint8 (N, C, H, W): bilinear, black where nothing was, rounded to whole grey levels.

    Example:
        >>> image = torch.tensor([[[[0, 0], [255, 0]]]], dtype=torch.uint8)
        >>> one = torch.ones(1, dtype=torch.float64)
        >>> right = torch.tensor([[0.5, 0.0]], dtype=torch.float64)
        >>> shift_images(image, right, one, one).tolist()
        [[[[0, 0], [0, 255]]]]
    """
    # grid_sample's coordinates run from −1 to 1, twice a width, and say where a pixel comes from.
    matrix = torch.zeros(len(images), 2, 3, dtype=torch.float64)
    matrix[:, 0, 0] = matrix[:, 1, 1] = 1 / scales
    matrix[:, :, 2] = -2 * shifts / scales.unsqueeze(1)
    grid = torch.nn.functional.affine_grid(matrix, list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(
        images.double(), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    grey = 127.5 + contrasts.view(-1, 1, 1, 1) * (moved - 127.5)
    return grey.round().clamp(0, 255).to(torch.uint8)
