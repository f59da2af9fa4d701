"""The two corruptions of Table 5, pixels turned off and Gaussian noise, and Figure 6's examples."""

from __future__ import annotations

import torch
from torch import Tensor


def pixels_off(images: Tensor, n: int = 50, *, generator: torch.Generator) -> Tensor:
    """Set n random positions of each image to 0 in all channels.

    Args:
        images: tensor (N, C, H, W) in pixel units, any dtype and device.
        n: number of distinct positions in each image, 0 … H·W (Table 5: 50).
        generator: draws the positions on its own device; a CPU generator draws the same ones for
            images on any device.

    Returns:
        A new tensor of the same shape, dtype and device.

    Raises:
        ValueError: ``n`` out of range, or images of another rank.

    Example:
        >>> images = torch.full((1, 3, 8, 8), 9)
        >>> int((pixels_off(images, 5, generator=torch.Generator()) == 0).sum())
        15
    """
    if images.ndim != 4:
        raise ValueError(f"images has shape {tuple(images.shape)}; accepted: (N, C, H, W).")
    count, _, height, width = images.shape
    if not 0 <= n <= height * width:
        raise ValueError(
            f"n={n} positions; accepted: 0 to {height * width}, the positions of an image."
        )
    # The positions of the n largest of independent random numbers are a uniform sample without
    # replacement.
    scores = torch.rand(count, height * width, generator=generator, device=generator.device)
    off = torch.zeros(count, height * width, dtype=torch.bool, device=generator.device)
    off.scatter_(1, scores.topk(n, dim=1, sorted=False).indices, True)
    return images.masked_fill(off.view(count, 1, height, width).to(images.device), 0)


def gaussian_noise(images: Tensor, sigma: float = 10.0, *, generator: torch.Generator) -> Tensor:
    """Add independent normal noise to every value; the result is not clipped.

    Args:
        images: tensor (N, C, H, W) in pixel units, uint8 or float, any device.
        sigma: standard deviation in grey levels, 0 or more (Table 5: 10, taken to mean of 0–255).
        generator: draws the noise, on its own device.

    Returns:
        A new float32 tensor of the same shape and device.

    Raises:
        ValueError: a negative or infinite sigma.

    Example:
        >>> gaussian_noise(torch.zeros(1, 3, 2, 2), generator=torch.Generator()).shape
        torch.Size([1, 3, 2, 2])
    """
    if not 0 <= sigma < float("inf"):
        raise ValueError(f"sigma={sigma}; accepted: 0 or more grey levels.")
    noise = torch.randn(
        images.shape, generator=generator, device=generator.device, dtype=torch.float32
    )
    return noise.mul_(sigma).to(images.device).add_(images)


def corruption_examples(
    images: Tensor, seed: int, *, num_off: int = 50, sigma: float = 10.0
) -> dict[str, Tensor]:
    """Make the rows of Figure 6: images unchanged, with pixels off, and with noise.

    Args:
        images: uint8 or float tensor (n, 3, H, W) in pixel units.
        seed: of the pixels and the noise, 0 or more.
        num_off: positions turned off in each image.
        sigma: standard deviation of the noise in grey levels.

    Returns:
        "normal", "pixels off" and "noise" in this order → new float32 tensor (n, 3, H, W). Clip
        the noisy images to 0–255 to draw them.

    Raises:
        ValueError: a number out of range, or images of another rank.

    Example:
        >>> rows = corruption_examples(torch.full((2, 3, 8, 8), 9), seed=0)
        >>> list(rows), int((rows["pixels off"] == 0).sum())
        (['normal', 'pixels off', 'noise'], 300)
    """
    if seed < 0:
        raise ValueError(f"seed={seed}; accepted: 0 or more.")
    generator = torch.Generator().manual_seed(seed)
    normal = images.to(torch.float32, copy=True)
    return {
        "normal": normal,
        "pixels off": pixels_off(normal, num_off, generator=generator),
        "noise": gaussian_noise(normal, sigma, generator=generator),
    }
