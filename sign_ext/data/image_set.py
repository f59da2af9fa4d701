"""Labelled images in memory: the form in which the whole package passes data around."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images in pixel units with their labels, validated on construction.

    Args:
        images: uint8 or float32 tensor (N, 3, H, W) on the CPU, pixel units 0–255 (float32 may
            leave that range, as SIGN's outputs do). Made contiguous if it is not.
        labels: int64 tensor (N,), each in 0 … len(class_names) − 1.
        class_names: one name a class, in label order.
        name: where the images come from, e.g. ``"cifar10/train"``.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, device or label.

    Example:
        >>> pixels = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
        >>> len(ImageSet(pixels, torch.tensor([0, 1]), ("cat", "dog"), "pets/train"))
        2
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    name: str

    def __post_init__(self) -> None:
        """Check what later code relies on."""
        if self.images.dtype not in (torch.uint8, torch.float32):
            raise TypeError(
                f"images has dtype {self.images.dtype}; accepted: torch.uint8 or torch.float32 "
                "in pixel units 0–255. Convert with images.float()."
            )
        if self.labels.dtype != torch.int64:
            raise TypeError(
                f"labels has dtype {self.labels.dtype}; accepted: torch.int64. "
                "Convert with labels.long()."
            )
        if self.images.ndim != 4 or self.images.shape[1] != 3:
            raise ValueError(
                f"images has shape {tuple(self.images.shape)}; accepted: (N, 3, H, W). "
                "Repeat the channel of greyscale images three times."
            )
        if self.labels.shape != (len(self.images),):
            raise ValueError(
                f"labels has shape {tuple(self.labels.shape)}; "
                f"accepted: ({len(self.images)},), one label an image."
            )
        if self.images.device.type != "cpu" or self.labels.device.type != "cpu":
            raise ValueError(
                f"images is on {self.images.device} and labels on {self.labels.device}; "
                "accepted: both on the CPU. Move them with .cpu()."
            )
        classes = len(self.class_names)
        if len(self.labels):
            lowest, highest = int(self.labels.min()), int(self.labels.max())
            if lowest < 0 or highest >= classes:
                raise ValueError(
                    f"labels range from {lowest} to {highest}; accepted: 0 to {classes - 1}, for "
                    f"the {classes} class_names."
                    + (" Subtract 1 from every label." if lowest == 1 else "")
                )
        object.__setattr__(self, "images", self.images.contiguous())
        object.__setattr__(self, "class_names", tuple(self.class_names))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def subset(self, indices: Tensor | Sequence[int]) -> ImageSet:
        """Return the images at some positions, in the given order.

        Args:
            indices: positions (int64 tensor or a sequence of ints), or a boolean mask
                of shape (N,).

        Returns:
            A new set that shares no memory with this one.
        """
        positions = torch.as_tensor(indices)
        if positions.numel() == 0:  # an empty list becomes float32, which cannot index
            positions = positions.to(torch.int64)
        return ImageSet(self.images[positions], self.labels[positions], self.class_names, self.name)

    def float(self) -> Tensor:
        """Return the images as float32 (N, 3, H, W) in pixel units; no copy if they already are."""
        return self.images.to(torch.float32)

    @staticmethod
    def concatenate(sets: Sequence[ImageSet], name: str | None = None) -> ImageSet:
        """Concatenate sets of the same classes and image shape, in order.

        Args:
            sets: one or more sets.
            name: of the result; by default the distinct names joined by " + ".

        Returns:
            One set: uint8 if all are uint8, else float32.

        Raises:
            ValueError: no sets, or sets whose classes or image shapes differ.
        """
        if not sets:
            raise ValueError("sets is empty; give at least one ImageSet.")
        first = sets[0]
        for other in sets[1:]:
            if other.class_names != first.class_names:
                raise ValueError(
                    f"{other.name!r} has classes {other.class_names} and {first.name!r} "
                    f"{first.class_names}; accepted: sets with the same classes in the same order."
                )
            if other.images.shape[1:] != first.images.shape[1:]:
                raise ValueError(
                    f"{other.name!r} has images of shape {tuple(other.images.shape[1:])} and "
                    f"{first.name!r} of {tuple(first.images.shape[1:])}; resize one of them."
                )
        all_uint8 = all(each.images.dtype == torch.uint8 for each in sets)
        images = torch.cat([each.images if all_uint8 else each.float() for each in sets])
        labels = torch.cat([each.labels for each in sets])
        joined = name or " + ".join(dict.fromkeys(each.name for each in sets))
        return ImageSet(images, labels, first.class_names, joined)


def fingerprint(image_set: ImageSet) -> str:
    """Return a SHA-256 that changes with any pixel, label, shape or dtype of a set.

    Args:
        image_set: the set; its name and class names are not hashed.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> pixels = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        >>> one = ImageSet(pixels, torch.tensor([0]), ("cat",), "a")
        >>> two = ImageSet(pixels, torch.tensor([0]), ("cat",), "b")
        >>> fingerprint(one) == fingerprint(two)
        True
    """
    return fingerprint_of(image_set.images, image_set.labels)


def fingerprint_of(images: Tensor, targets: Tensor) -> str:
    """Return the same SHA-256 of images and targets of any kind.

    Args:
        images: (N, C, H, W) on the CPU, of a dtype that NumPy has.
        targets: (N, ...), likewise.

    Returns:
        64 hexadecimal digits; those of `fingerprint` for uint8 images and int64 labels (N,).
    """
    digest = hashlib.sha256()
    for tensor in (images, targets):
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
        # sha256 reads the array's memory in place, without a second copy of the data.
        digest.update(tensor.contiguous().numpy().data)
    return digest.hexdigest()
