"""Augmentations that the field would ask for today, by torchvision: one image at a time, or mixed.

They are torchvision's own (`torchvision.transforms.v2`), with their randomness taken from the given
generator. Its operations on single images need bytes, so images are rounded to integers and clipped
to 0–255 before them. That changes images that a resampling or SIGN made; see `share_clipped`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor


def seeded(generator: Generator, call: Callable[[], Any]) -> Any:
    """Call what draws from PyTorch's global CPU generator, seeded by one number of another.

    The global generators are as before afterwards, also those of CUDA devices, which
    `torch.manual_seed` would seed, too.

    Args:
        generator: one number is drawn from it.
        call: made with the global CPU generator seeded.
    """
    seed = torch.randint(2**31, (), generator=generator, device=generator.device)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(seed))
        return call()


def as_bytes(images: Tensor) -> Tensor:
    """Round to integers and clip to 0–255: uint8, of the same shape."""
    return images.round().clamp(0, 255).to(torch.uint8)


def share_clipped(images: Tensor) -> float:
    """The share of values that `as_bytes` moves by more than rounding does, for records.

    Example:
        >>> share_clipped(torch.tensor([[-3.0, 0.2, 255.4, 300.0]]))
        0.5
    """
    return float(((images < -0.5) | (images > 255.5)).double().mean())


def _each(images: Tensor, generator: Generator, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Change images one by one, so that each has its own operations.

    On the CPU, where an operation on a small image costs least, and where the draws are the same
    whatever the device of the images.
    """
    if not len(images):
        return images.clone()
    pixels = as_bytes(images).cpu()
    changed = seeded(generator, lambda: torch.stack([change(image) for image in pixels]))
    return changed.to(images.device, images.dtype)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class TrivialAugment:
    """One operation of a random magnitude for each image (Müller and Hutter, ICCV 2021).

    It is torchvision's `v2.TrivialAugmentWide`. Images are rounded and clipped to bytes first.

    Args:
        bins: the number of magnitudes, 2 or more.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> changed, _ = TrivialAugment()(images, labels, torch.Generator().manual_seed(0))
        >>> changed.shape, changed.dtype
        (torch.Size([4, 3, 8, 8]), torch.float32)
    """

    bins: int = 31

    def __post_init__(self) -> None:
        """Check the number, so that a wrong one fails before training starts."""
        _check_integer("bins", self.bins, 2)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch with each image changed, and labels.

        Args:
            images: float32 (N, 3, H, W), pixel units; never modified.
            labels: returned unchanged.
            generator: one number is drawn from it.
        """
        from torchvision.transforms import v2

        return _each(images, generator, v2.TrivialAugmentWide(self.bins)), labels


@dataclass(frozen=True)
class RandAugment:
    """Some operations of one magnitude for each image (Cubuk et al., NeurIPS 2020).

    It is torchvision's `v2.RandAugment`. Images are rounded and clipped to bytes first.

    Args:
        operations: how many, one after the other, 1 or more.
        magnitude: 0 to 30; 9 is torchvision's.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> RandAugment()(images, labels, torch.Generator().manual_seed(0))[0].shape
        torch.Size([4, 3, 8, 8])
    """

    operations: int = 2
    magnitude: int = 9

    def __post_init__(self) -> None:
        """Check the numbers, so that a wrong one fails before training starts."""
        _check_integer("operations", self.operations, 1)
        _check_integer("magnitude", self.magnitude, 0, 30)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch with each image changed, and labels.

        Args:
            images: float32 (N, 3, H, W), pixel units; never modified.
            labels: returned unchanged.
            generator: one number is drawn from it.
        """
        from torchvision.transforms import v2

        change = v2.RandAugment(num_ops=self.operations, magnitude=self.magnitude)
        return _each(images, generator, change), labels


@dataclass(frozen=True)
class AugMix:
    """Several chains of operations blended with each image (Hendrycks et al., ICLR 2020).

    It is torchvision's `v2.AugMix`, without the paper's consistency loss. Images are rounded and
    clipped to bytes first.

    Args:
        severity: of the operations, 1 to 10.
        width: the number of chains, 1 or more.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> AugMix()(images, labels, torch.Generator().manual_seed(0))[0].shape
        torch.Size([4, 3, 8, 8])
    """

    severity: int = 3
    width: int = 3

    def __post_init__(self) -> None:
        """Check the numbers, so that a wrong one fails before training starts."""
        _check_integer("severity", self.severity, 1, 10)
        _check_integer("width", self.width, 1)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch with each image changed, and labels.

        Args:
            images: float32 (N, 3, H, W), pixel units; never modified.
            labels: returned unchanged.
            generator: one number is drawn from it.
        """
        from torchvision.transforms import v2

        change = v2.AugMix(severity=self.severity, mixture_width=self.width)
        return _each(images, generator, change), labels


@dataclass(frozen=True)
class CutMix:
    """Paste a rectangle of each image's neighbour into it (Yun et al., ICCV 2019).

    It is torchvision's `v2.CutMix`: λ ~ Beta(α, α) and one rectangle a batch; labels are mixed by
    the rectangle's area. Nothing is rounded.

    Args:
        num_classes: length of the one-hot labels.
        alpha: α, above 0; the paper's is 1.

    Raises:
        ValueError: a number out of range.

    Example:
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> mixed, targets = CutMix(10)(images, labels, torch.Generator().manual_seed(0))
        >>> mixed.shape, targets.shape
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 10]))
    """

    num_classes: int
    alpha: float = 1.0

    mixes_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check both values, so that a wrong one fails before training starts."""
        _check_integer("num_classes", self.num_classes, 1)
        number = isinstance(self.alpha, int | float) and not isinstance(self.alpha, bool)
        if not number or not math.isfinite(self.alpha) or self.alpha <= 0:
            raise ValueError(f"alpha must be a finite number above 0; got {self.alpha!r}.")

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch mixed with itself, rolled by one image, and float32 targets.

        Args:
            images: float32 (N, C, H, W), pixel units; never modified.
            labels: int64 (N,), or float32 (N, num_classes).
            generator: one number is drawn from it.
        """
        from torchvision.transforms import v2

        mix = v2.CutMix(alpha=float(self.alpha), num_classes=self.num_classes)
        mixed, targets = seeded(generator, lambda: mix(images, labels))
        return mixed, targets


def _check_integer(name: str, value: object, least: int, most: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):  # type: ignore[operator]
        accepted = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name} must be an integer, {accepted}; got {value!r}.")
