"""SIGN as augmentation: the training set together with its own transformed versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from sign_ext.data import ImageSet

Mode = Literal["add", "replace"]


def sign_training_set(
    originals: ImageSet, snapshots: Mapping[int, Tensor], *, mode: Mode = "add"
) -> ImageSet:
    """Join a training set with its transformed versions p*_K, labels repeated.

    The paper (Section 3) augments the training set "with two different versions", K = 50 and 100:
    that is mode="add" with two snapshots, three times as many images. Transformed images leave
    0–255 and are not whole numbers, so the result is float32 and never rounded to uint8.

    Args:
        originals: uint8 or float32 images (N, C, H, W), 0–255.
        snapshots: K → float32 (N, C, H, W) in the originals' order, on any device, as
            `iterative_sign(..., snapshots=(50, 100))` returns them.
        mode: "add" keeps the originals first; "replace" leaves them out.

    Returns:
        A float32 ImageSet: the originals (mode "add"), then each snapshot by rising K.

    Raises:
        TypeError: a snapshot is not a float32 tensor.
        ValueError: an unknown mode, no snapshot, a K below 1, a shape other than the originals',
            or a value that is not finite.

    Example:
        >>> images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
        >>> originals = ImageSet(images, torch.arange(6) % 2, ("a", "b"), "example")
        >>> both = sign_training_set(originals, {50: images + 0.25, 100: images + 0.5})
        >>> len(both), both.images.dtype
        (18, torch.float32)
    """
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be 'add' or 'replace'; got {mode!r}.")
    if not snapshots:
        raise ValueError(
            "snapshots is empty: give at least one, e.g. "
            "iterative_sign(model, images, 100, snapshots=(50, 100))."
        )
    for k, images in snapshots.items():
        _check_snapshot(k, images, originals)
    steps = sorted(snapshots)
    parts = ([originals.images] if mode == "add" else []) + [snapshots[k] for k in steps]
    count = len(originals)
    # Filled part by part: a CIFAR-10-sized result is 1.8 GB, and no second copy of it is made.
    joined = torch.empty((count * len(parts), *originals.images.shape[1:]), dtype=torch.float32)
    for i, part in enumerate(parts):
        joined[i * count : (i + 1) * count].copy_(part)
    name = f"{originals.name}{'+' if mode == 'add' else '→'}sign({','.join(map(str, steps))})"
    labels = originals.labels.repeat(len(parts))
    return ImageSet(joined, labels, originals.class_names, name)


def _check_snapshot(k: int, images: Tensor, originals: ImageSet) -> None:
    """Raise unless `images` is a float32, finite version of the originals."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"snapshots' keys are step counts K, integers from 1 up; got {k!r}.")
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        given = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"snapshots[{k}] must be a float32 tensor, as iterative_sign returns; got {given}."
        )
    if images.shape != originals.images.shape:
        raise ValueError(
            f"snapshots[{k}] has shape {tuple(images.shape)}, the originals "
            f"{tuple(originals.images.shape)}: give the transformed version of exactly these "
            "images, in their order."
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            f"snapshots[{k}] holds NaN or Inf: the transform diverged. Use a smaller step_size "
            "(SignTransform.calibrate proposes one)."
        )
