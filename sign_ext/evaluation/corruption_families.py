"""Corruptions of CIFAR-10-C, each at five severities, and accuracy on images with them.

The families that Hendrycks and Dietterich (arXiv:1903.12261) define by a formula, with the numbers
that their `make_cifar_c.py` gives for images of 32×32. Those that need files or simulate weather
and lenses (frost, snow, fog, motion, zoom, glass, elastic, spatter, defocus) are not here.
Blur is torchvision's, JPEG and resizing Pillow's.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from sign_ext.data.classes import with_classes_of
from sign_ext.data.image_set import ImageSet
from sign_ext.evaluation.accuracy import class_accuracy
from sign_ext.evaluation.corruption import gaussian_noise, pixels_off
from sign_ext.evaluation.evaluate import Corruption, corrupted_logits
from sign_ext.formatting import did_you_mean

if TYPE_CHECKING:
    from PIL import Image

SEVERITIES = (1, 2, 3, 4, 5)


@dataclass(frozen=True)
class Family:
    """A corruption at five severities.

    Attributes:
        words: what it does.
        strengths: a number for each severity.
        apply: (images float32 (N, C, H, W) in 0–1, strength, generator) → the same shape.
        random: whether it draws; if not, one draw is all there is.
    """

    words: str
    strengths: tuple[float, ...]
    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    random: bool


def corrupted(name: str, severity: int, images: Tensor, generator: torch.Generator) -> Tensor:
    """Corrupt images as CIFAR-10-C does, but without rounding the result.

    Args:
        name: a key of `FAMILIES`.
        severity: 1 … 5.
        images: (N, C, H, W), grey levels 0–255, uint8 or floating.
        generator: draws on its own device.

    Returns:
        float32, shaped as images, clipped to 0–255.

    Raises:
        ValueError: an unknown name or severity.

    Example:
        >>> image = torch.tensor([0.0, 100.0]).expand(1, 3, 1, 2)
        >>> corrupted("contrast", 2, image, torch.Generator())[0, 0].tolist()
        [[25.0, 75.0]]
    """
    family = family_of(name)
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity}; accepted: 1 to 5.")
    shares = images.float() / 255
    return family.apply(shares, family.strengths[severity - 1], generator).clamp(0, 1) * 255


def family_of(name: str) -> Family:
    """Return the corruption of this name.

    Raises:
        ValueError: there is none; the message suggests the closest name.
    """
    if name not in FAMILIES:
        hint = did_you_mean(name, FAMILIES) or ";"
        raise ValueError(f"corruption {name!r}{hint} accepted: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _normal(images: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(images.shape, generator=generator, device=generator.device)
    return drawn.to(images.device)


def _gaussian(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return images + sigma * _normal(images, generator)


def _shot(images: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    rates = images.to(generator.device) * photons
    return (torch.poisson(rates, generator=generator) / photons).to(images.device)


def _impulse(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Salt and pepper: each value becomes 0 or 1 with probability share / 2 each."""
    drawn = torch.rand(images.shape, generator=generator, device=generator.device)
    drawn = drawn.to(images.device)
    return images.masked_fill(drawn < share, 1.0).masked_fill(drawn < share / 2, 0.0)


def _speckle(images: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    return images + images * (sigma * _normal(images, generator))


def _blur(images: Tensor, sigma: float, _: torch.Generator) -> Tensor:
    """torchvision's; the kernel reaches 4σ, as scikit-image's does."""
    from torchvision.transforms.v2.functional import gaussian_blur

    side = 2 * int(4 * sigma + 0.5) + 1
    limit = 2 * min(images.shape[-2:]) - 1  # what reflection can pad
    return gaussian_blur(images, [min(side, limit)] * 2, [sigma] * 2)


def _brightness(images: Tensor, more: float, _: torch.Generator) -> Tensor:
    """Add to V of HSV: hue and saturation stay, so all channels grow by V' / V."""
    value = images.amax(1, keepdim=True)
    wanted = (value + more).clamp(0, 1)
    factor = wanted / value.clamp(min=1e-12)
    return torch.where(value > 0, images * factor, wanted.expand_as(images))


def _contrast(images: Tensor, factor: float, _: torch.Generator) -> Tensor:
    mean = images.mean((2, 3), keepdim=True)
    return (images - mean) * factor + mean


def _saturate(images: Tensor, severity: float, _: torch.Generator) -> Tensor:
    """S' = S·a + b of HSV, clipped: hue and V stay. Grey has the hue of red, as in scikit-image."""
    factor, added = _SATURATION[int(severity) - 1]
    value = images.amax(1, keepdim=True)
    spread = value - images.amin(1, keepdim=True)
    saturation = spread / value.clamp(min=1e-12)
    wanted = (saturation * factor + added).clamp(0, 1)
    coloured = value - (value - images) * (wanted / saturation.clamp(min=1e-12))
    if images.shape[1] != 3:
        return images
    red = torch.tensor([0.0, 1.0, 1.0], device=images.device).view(1, 3, 1, 1)
    return torch.where(spread > 0, coloured, value * (1 - wanted * red))


_SATURATION = ((0.3, 0.0), (0.1, 0.0), (1.5, 0.0), (2.0, 0.1), (2.5, 0.2))


def _jpeg(images: Tensor, quality: float, _: torch.Generator) -> Tensor:
    from PIL import Image

    def compressed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(quality))
        return Image.open(buffer)

    return _by_pillow(images, compressed)


def _pixelate(images: Tensor, share: float, _: torch.Generator) -> Tensor:
    """Pillow's box filter down to `share` of the size and up again, which is area averaging."""
    from PIL import Image

    def resized(image: Image.Image) -> Image.Image:
        small = (max(1, int(image.width * share)), max(1, int(image.height * share)))
        box = Image.Resampling.BOX
        return image.resize(small, box).resize(image.size, box)

    return _by_pillow(images, resized)


def _by_pillow(images: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    """Change images, rounded to 8 bits, one by one: Pillow has no batches."""
    from PIL import Image

    whole = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    found = []
    for pixels in whole:
        image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
        found.append(torch.from_numpy(np.array(change(image))).view(pixels.shape))
    return torch.stack(found).permute(0, 3, 1, 2).to(images.device).float() / 255


FAMILIES: dict[str, Family] = {
    "gaussian_noise": Family(
        "normal noise, σ a share of 255, clipped", (0.04, 0.06, 0.08, 0.09, 0.10), _gaussian, True
    ),
    "shot_noise": Family(
        "Poisson noise of so many photons at white", (500, 250, 100, 75, 50), _shot, True
    ),
    "impulse_noise": Family(
        "a share of the values becomes 0 or 255", (0.01, 0.02, 0.03, 0.05, 0.07), _impulse, True
    ),
    "speckle_noise": Family(
        "normal noise times the value", (0.06, 0.10, 0.12, 0.16, 0.20), _speckle, True
    ),
    "gaussian_blur": Family("σ in pixels", (0.4, 0.6, 0.7, 0.8, 1.0), _blur, False),
    "brightness": Family("added to V of HSV", (0.05, 0.1, 0.15, 0.2, 0.3), _brightness, False),
    "contrast": Family(
        "distance from the mean times", (0.75, 0.5, 0.4, 0.3, 0.15), _contrast, False
    ),
    "saturate": Family("S of HSV less, then more", (1, 2, 3, 4, 5), _saturate, False),
    "jpeg_compression": Family("JPEG of quality", (80, 65, 58, 50, 40), _jpeg, False),
    "pixelate": Family(
        "resized to a share and back", (0.95, 0.9, 0.85, 0.75, 0.65), _pixelate, False
    ),
}


@dataclass(frozen=True)
class Condition:
    """One corruption at one strength.

    Attributes:
        name: a key of `FAMILIES`, or "noise" or "pixels_off", the paper's.
        strength: the severity 1 … 5; σ in grey levels; or the number of pixels.
    """

    name: str
    strength: float

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless images of a shape (C, H, W) can be corrupted so."""
        self.corruption()(torch.zeros(1, *shape, dtype=torch.uint8), torch.Generator())

    def corruption(self) -> Corruption:
        """Return (images, generator) → the corrupted images."""
        if self.name == "noise":
            return lambda images, generator: gaussian_noise(
                images, self.strength, generator=generator
            )
        if self.name == "pixels_off":
            return lambda images, generator: pixels_off(
                images, int(self.strength), generator=generator
            )
        return lambda images, generator: corrupted(self.name, int(self.strength), images, generator)

    @property
    def random(self) -> bool:
        """Whether draws differ."""
        return self.name in ("noise", "pixels_off") or family_of(self.name).random

    def __str__(self) -> str:
        """As a table calls it."""
        if self.name == "noise":
            return f"Gaussian noise, σ = {self.strength:g}"
        if self.name == "pixels_off":
            return f"{self.strength:g} pixels off"
        return f"{self.name.replace('_', ' ')}, severity {self.strength:g}"


@dataclass(frozen=True)
class CorruptedAccuracy:
    """Accuracy (0–1) on corrupted images.

    Attributes:
        condition: the corruption.
        mean: over the draws.
        std: sample standard deviation over the draws; NaN for one draw.
        draws: how many there were; 1 for a corruption that draws nothing.
    """

    condition: Condition
    mean: float
    std: float
    draws: int


def evaluate_corrupted(
    model: nn.Module,
    test: ImageSet,
    conditions: Sequence[Condition],
    *,
    draws: int = 10,
    seed: int = 0,
    batch_size: int = 512,
    progress: Callable[[int, int], None] | None = None,
) -> list[CorruptedAccuracy]:
    """Measure a model's accuracy on corrupted test images.

    The images depend on the seed, not on batch size or device, and the draws of a condition not on
    which others there are. Noise and pixels of different strengths use the same random numbers.

    Args:
        model: float images (n, 3, H, W) in 0–255 → logits.
        test: the test images.
        conditions: what to measure.
        draws: of each corruption that draws; the others are measured once.
        seed: of the draws, 0 or more.
        batch_size: images at once.
        progress: called with (images done, total).

    Returns:
        A result for each condition, in order.

    Raises:
        ValueError: an unknown name, a strength out of range, or what `evaluate` refuses.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        >>> pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> test = ImageSet(pixels, torch.tensor([0, 1, 0, 1]), ("cat", "dog"), "pets/test")
        >>> [found] = evaluate_corrupted(model, test, [Condition("contrast", 3)])
        >>> found.mean, found.draws
        (0.5, 1)
    """
    if not len(test):
        raise ValueError(f"test={test.name!r} is empty; give at least one image.")
    if draws < 1:
        raise ValueError(f"draws={draws}; accepted: 1 or more.")
    for condition in conditions:
        condition.check(tuple(test.images.shape[1:]))
    test = with_classes_of(model, test)
    total = sum(draws if each.random else 1 for each in conditions) * len(test)
    done = 0

    def advance(images: int) -> None:
        nonlocal done
        done += images
        if progress is not None:
            progress(done, total)

    found = []
    for condition in conditions:
        accuracies = []
        for draw in range(draws if condition.random else 1):
            logits = corrupted_logits(
                model,
                test.images,
                condition.corruption(),
                (seed, _stream(condition.name), draw),
                batch_size,
                advance,
            )
            accuracies.append(class_accuracy(logits, test.labels, len(test.class_names))[0])
        deviation = statistics.stdev(accuracies) if len(accuracies) > 1 else math.nan
        mean = statistics.fmean(accuracies)
        found.append(CorruptedAccuracy(condition, mean, deviation, len(accuracies)))
    return found


def _stream(name: str) -> int:
    """The number of a corruption's random numbers; `evaluate` has 0 and 1 for the paper's two."""
    paper = {"pixels_off": 0, "noise": 1}
    return paper[name] if name in paper else 2 + list(FAMILIES).index(name)
