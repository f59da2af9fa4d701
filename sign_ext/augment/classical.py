"""Classical augmentation: flips, shifts and rotations, in one resampling of the whole batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class Classical:
    """Random flips, rotations and shifts of each sample, by bilinear resampling on the device.

    The paper names the operations but not their magnitudes; the defaults here are ours. A sample is
    flipped, then rotated about its centre, then shifted, and interpolated once for all three.
    Positions outside the image take the value of the nearest border pixel (Keras's fill mode
    "nearest").

    Args:
        horizontal_flip: swap left and right with probability 1/2.
        vertical_flip: swap top and bottom with probability 1/2.
        max_shift: largest shift as a fraction of each side, in [0, 1]; uniform in ±max_shift for
            each axis.
        max_rotation: largest rotation in degrees, in [0, 180]; uniform in ±max_rotation.

    Raises:
        ValueError: a magnitude out of range.

    Example:
        >>> generator = torch.Generator().manual_seed(0)
        >>> images, labels = torch.rand(4, 3, 32, 32) * 255, torch.arange(4)
        >>> augmented, same_labels = Classical()(images, labels, generator)
        >>> augmented.shape
        torch.Size([4, 3, 32, 32])
    """

    horizontal_flip: bool = True
    vertical_flip: bool = True
    max_shift: float = 0.10
    max_rotation: float = 15.0

    def __post_init__(self) -> None:
        """Check the magnitudes, so that a wrong one fails before training starts."""
        if not 0.0 <= self.max_shift <= 1.0:
            raise ValueError(
                f"max_shift is a fraction of the image's side in [0, 1]; got {self.max_shift!r}. "
                "For a shift of n pixels give n / side."
            )
        if not 0.0 <= self.max_rotation <= 180.0:
            raise ValueError(f"max_rotation is in degrees, in [0, 180]; got {self.max_rotation!r}.")

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch with every sample flipped, rotated and shifted at random.

        Args:
            images: float32 (N, C, H, W), pixel units 0–255; never modified.
            labels: (N,) or (N, classes), returned unchanged.
            generator: on the CPU or on the images' device. The same generator state gives the same
                parameters whichever device the images are on.

        Returns:
            A new float32 (N, C, H, W) tensor, and labels.
        """
        if len(images) == 0:
            return images.clone(), labels
        flips, angles, shifts = self.draw(len(images), generator)
        theta = affine_matrices(
            flips, angles, shifts, height=images.shape[2], width=images.shape[3]
        )
        return resample(images, theta.to(images.device, non_blocking=True)), labels

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Draw the parameters of `count` samples on the generator's device.

        Five uniform numbers a sample are drawn whatever the options, so that switching one option
        off does not change the draws of the others.

        Returns:
            flips (N, 2), −1 where the sample is mirrored along x or y and 1 elsewhere;
            angles (N,) in radians, positive for clockwise rotation as displayed;
            shifts (N, 2) along x (to the right) and y (down), as fractions of width and height.
        """
        uniform = torch.rand(count, 5, generator=generator, device=generator.device)
        allowed = torch.tensor([self.horizontal_flip, self.vertical_flip], device=generator.device)
        flips = 1.0 - 2.0 * ((uniform[:, :2] < 0.5) & allowed)
        angles = (2.0 * uniform[:, 2] - 1.0) * math.radians(self.max_rotation)
        shifts = (2.0 * uniform[:, 3:] - 1.0) * self.max_shift
        return flips, angles, shifts


def classical_for(data: str) -> Classical:
    """Return the classical augmentation for a data set: digits are not flipped.

    A mirrored digit is another symbol, or none, so its label would be wrong.

    Args:
        data: a name or path for `load_data`; the names of the digits begin with "digits".

    Example:
        >>> classical_for("cifar10").horizontal_flip, classical_for("digits").horizontal_flip
        (True, False)
    """
    flips = not data.startswith("digits")
    return Classical(horizontal_flip=flips, vertical_flip=flips)


def affine_matrices(
    flips: Tensor, angles: Tensor, shifts: Tensor, *, height: int, width: int
) -> Tensor:
    """Build the matrices that map an output position to the input position it is read from.

    With centred pixel coordinates, out = R·F·in + t (flip F, rotation R, shift t), hence
    in = F·Rᵀ·(out − t). F.affine_grid uses coordinates from −1 to 1 across each side, so
    in = S⁻¹·F·Rᵀ·S·out − S⁻¹·F·Rᵀ·t with S = diag(width/2, height/2): without S the rotation of a
    non-square image would also shear it.

    Args:
        flips: (N, 2), ±1 for x and y.
        angles: (N,), radians.
        shifts: (N, 2), fractions of width and height.
        height: of the images, in pixels.
        width: of the images, in pixels.

    Returns:
        (N, 2, 3), in the dtype and on the device of `angles`.
    """
    cos, sin = torch.cos(angles), torch.sin(angles)
    flip_x, flip_y = flips[:, 0], flips[:, 1]
    # F·Rᵀ conjugated by S: the aspect ratio enters the off-diagonal entries only.
    xx, xy = flip_x * cos, flip_x * sin * (height / width)
    yx, yy = -flip_y * sin * (width / height), flip_y * cos
    x, y = 2.0 * shifts[:, 0], 2.0 * shifts[:, 1]  # S⁻¹·t: a full side is 2 units long
    rows = [xx, xy, -(xx * x + xy * y), yx, yy, -(yx * x + yy * y)]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def resample(images: Tensor, theta: Tensor) -> Tensor:
    """Resample a batch by one affine matrix a sample, bilinearly, repeating border pixels.

    Args:
        images: float (N, C, H, W).
        theta: (N, 2, 3) from :func:`affine_matrices`, on the images' device.

    Returns:
        (N, C, H, W) in the images' dtype.
    """
    grid = F.affine_grid(theta.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
