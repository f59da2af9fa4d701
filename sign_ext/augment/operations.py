"""The operations of DeepAugment's policies, on batches of float32 pixels.

SIGN's images are not integers and may leave 0–255, so nothing here rounds or clips. torchvision's
colour functions clamp floats to [0, 1], which is why they are implemented here.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sign_ext.augment.classical import affine_matrices, resample

UNIFORMS = 3  # uniform numbers that an operation gets for each image

# (images, amount, uniform, generator) → images, as in Spec.
Function = Callable[[Tensor, float, Tensor, Generator], Tensor]


@dataclass(frozen=True)
class Spec:
    """What an operation's name stands for.

    Attributes:
        function: called with images (N, 3, H, W), an amount, uniform numbers (N, UNIFORMS) on the
            images' device, and the generator for what needs more numbers.
        largest: the amount at magnitude 1; the amount is proportional to the magnitude.
        meaning: what the amount is, with its unit.
    """

    function: Function
    largest: float
    meaning: str


def _signed(amount: float, uniform: Tensor) -> Tensor:
    """Return the amount with a random sign for each image: (N,)."""
    return torch.where(uniform[:, 0] < 0.5, -amount, amount)


def _column(values: Tensor) -> Tensor:
    """Reshape (N,) to broadcast over images."""
    return values.view(-1, 1, 1, 1)


def _resample_linear(images: Tensor, xx: Tensor, xy: Tensor, yx: Tensor, yy: Tensor) -> Tensor:
    """Read each output position, in pixels from the centre, at (xx·x + xy·y, yx·x + yy·y)."""
    aspect = images.shape[2] / images.shape[3]  # grid_sample's units are half sides, not pixels
    zero = torch.zeros_like(xx)
    rows = [xx, xy * aspect, zero, yx / aspect, yy, zero]
    return resample(images, torch.stack(rows, dim=1).view(-1, 2, 3))


def _shear_x(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    shear = _signed(amount, uniform)
    one, zero = torch.ones_like(shear), torch.zeros_like(shear)
    return _resample_linear(images, one, shear, zero, one)


def _shear_y(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    shear = _signed(amount, uniform)
    one, zero = torch.ones_like(shear), torch.zeros_like(shear)
    return _resample_linear(images, one, zero, shear, one)


def _move(images: Tensor, angles: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Rotate by angles in radians, then shift by fractions of the sides."""
    height, width = images.shape[2:]
    unflipped = torch.ones(len(images), 2, device=images.device)
    shifts = torch.stack([x, y], dim=1)
    return resample(images, affine_matrices(unflipped, angles, shifts, height=height, width=width))


def _translate_x(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    shift = _signed(amount, uniform)
    return _move(images, torch.zeros_like(shift), shift, torch.zeros_like(shift))


def _translate_y(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    shift = _signed(amount, uniform)
    return _move(images, torch.zeros_like(shift), torch.zeros_like(shift), shift)


def _rotate(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    angle = _signed(math.radians(amount), uniform)
    return _move(images, angle, torch.zeros_like(angle), torch.zeros_like(angle))


def _zoom(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    """Cut out a window of 1 − amount of each side at a random position, and enlarge it."""
    side = torch.full_like(uniform[:, 0], 1.0 - amount)
    zero = torch.zeros_like(side)
    # A side is 2 units long for grid_sample, so the window's centre can lie anywhere in ±amount.
    x, y = ((2.0 * uniform[:, 1:] - 1.0) * amount).unbind(dim=1)
    return resample(images, torch.stack([side, zero, x, zero, side, y], dim=1).view(-1, 2, 3))


def _horizontal_flip(
    images: Tensor, amount: float, uniform: Tensor, generator: Generator
) -> Tensor:
    return torch.where(_column(uniform[:, 0] < amount), images.flip(3), images)


def _vertical_flip(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    return torch.where(_column(uniform[:, 0] < amount), images.flip(2), images)


def _brightness(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    return images + _column(_signed(amount, uniform))


def _away_from(base: Tensor, images: Tensor, amount: float, uniform: Tensor) -> Tensor:
    """Multiply the images' distance from `base` by 1 ± amount."""
    return images + _column(_signed(amount, uniform)) * (images - base)


def _contrast(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    return _away_from(_grey(images).mean(dim=(2, 3), keepdim=True), images, amount, uniform)


def _saturation(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    return _away_from(_grey(images), images, amount, uniform)


def _sharpness(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur

    return _away_from(gaussian_blur(images, [3, 3], [1.0, 1.0]), images, amount, uniform)


def _grey(images: Tensor) -> Tensor:
    """Luma of RGB images: (N, 1, H, W)."""
    from torchvision.transforms.v2.functional import rgb_to_grayscale

    grey: Tensor = rgb_to_grayscale(images)
    return grey


def _posterize(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    return torch.round(images / amount) * amount


def _solarize(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    """Mirror values above a threshold at it; the amount sets it within the image's own range."""
    low, high = images.amin(dim=(1, 2, 3)), images.amax(dim=(1, 2, 3))
    threshold = _column(high - amount * (high - low))
    return torch.where(images > threshold, 2.0 * threshold - images, images)


def _cutout(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    """Fill a square at a random position with the mean of each channel."""
    height, width = images.shape[2:]
    half = amount * min(height, width) / 2
    rows = torch.arange(height, device=images.device) + 0.5 - uniform[:, 1:2] * height
    columns = torch.arange(width, device=images.device) + 0.5 - uniform[:, 2:3] * width
    inside = (rows.abs() < half)[:, None, :, None] & (columns.abs() < half)[:, None, None, :]
    return torch.where(inside, images.mean(dim=(2, 3), keepdim=True), images)


def _noise(images: Tensor, amount: float, uniform: Tensor, generator: Generator) -> Tensor:
    # On the generator's device, so that the same state gives the same noise on every device.
    drawn = torch.randn(images.shape, generator=generator, device=generator.device)
    return images + amount * drawn.to(images.device, images.dtype)


# What each operation does at magnitude 1. The ranges are AutoAugment's where it has the operation;
# "±" is a random sign for each image. The amount of a flip is its probability, as in the package
# DeepAugment.
OPERATIONS: dict[str, Spec] = {
    "shear_x": Spec(_shear_x, 0.3, "± columns shifted for each row from the centre"),
    "shear_y": Spec(_shear_y, 0.3, "± rows shifted for each column from the centre"),
    "translate_x": Spec(_translate_x, 0.45, "± fraction of the width"),
    "translate_y": Spec(_translate_y, 0.45, "± fraction of the height"),
    "rotate": Spec(_rotate, 30.0, "± degrees about the centre"),
    "zoom": Spec(_zoom, 0.5, "fraction of each side that is cut off, at a random position"),
    "horizontal_flip": Spec(_horizontal_flip, 1.0, "probability that left and right are swapped"),
    "vertical_flip": Spec(_vertical_flip, 1.0, "probability that top and bottom are swapped"),
    "brightness": Spec(_brightness, 40.0, "± grey levels added"),
    "contrast": Spec(_contrast, 0.9, "± fraction added to the distance from the mean grey"),
    "saturation": Spec(_saturation, 0.9, "± fraction added to the distance from the grey image"),
    "sharpness": Spec(_sharpness, 0.9, "± fraction added to the distance from the blurred image"),
    "posterize": Spec(_posterize, 64.0, "step in grey levels between the remaining values"),
    "solarize": Spec(_solarize, 0.5, "fraction of the image's range, from the top, mirrored down"),
    "cutout": Spec(_cutout, 0.5, "side of the filled square, as a fraction of the shorter side"),
    "noise": Spec(_noise, 30.0, "standard deviation of Gaussian noise, in grey levels"),
}
FLIPS = ("horizontal_flip", "vertical_flip")
OPERATION_NAMES: tuple[str, ...] = tuple(OPERATIONS)


def operation_names(*, flips: bool = True) -> tuple[str, ...]:
    """Return the names of the operations that a search may use.

    Args:
        flips: False leaves both flips out, for images whose label a flip would change.

    Example:
        >>> len(operation_names()), len(operation_names(flips=False))
        (16, 14)
    """
    return tuple(name for name in OPERATION_NAMES if flips or name not in FLIPS)


@dataclass(frozen=True)
class Operation:
    """One operation with its magnitude.

    Args:
        name: one of OPERATION_NAMES; OPERATIONS says what each does at magnitude 1.
        magnitude: in [0, 1]; at 0 every operation returns the images unchanged.

    Raises:
        ValueError: an unknown name, or a magnitude out of range.

    Example:
        >>> images = torch.rand(2, 3, 8, 8) * 255
        >>> Operation("rotate", 0.5)(images, torch.rand(2, 3), torch.Generator()).shape
        torch.Size([2, 3, 8, 8])
    """

    name: str
    magnitude: float

    def __post_init__(self) -> None:
        """Check both values."""
        if self.name not in OPERATIONS:
            close = difflib.get_close_matches(str(self.name), OPERATION_NAMES, n=1)
            raise ValueError(
                f"name is {self.name!r}; accepted: {', '.join(OPERATION_NAMES)}."
                + (f" Did you mean {close[0]!r}?" if close else "")
            )
        is_number = isinstance(self.magnitude, int | float) and not isinstance(self.magnitude, bool)
        if not is_number or not 0.0 <= self.magnitude <= 1.0:
            raise ValueError(f"magnitude is {self.magnitude!r}; accepted: a number in [0, 1].")
        object.__setattr__(self, "magnitude", float(self.magnitude))

    def __call__(self, images: Tensor, uniform: Tensor, generator: Generator) -> Tensor:
        """Apply the operation to a batch.

        Args:
            images: float32 (N, 3, H, W), pixel units 0–255 or beyond; never modified.
            uniform: float32 (N, UNIFORMS) in [0, 1), on the images' device: the source of signs,
                positions and decisions.
            generator: used by noise only.

        Returns:
            float32 (N, 3, H, W); at magnitude 0 `images` itself.
        """
        if self.magnitude == 0.0:
            return images
        spec = OPERATIONS[self.name]
        return spec.function(images, self.magnitude * spec.largest, uniform, generator)
