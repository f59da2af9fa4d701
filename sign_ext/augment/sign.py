"""SIGN as an augmentation: the training set together with its transformed versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from sign_ext.data import ImageSet

Mode = Literal["add", "replace"]


def sign_training_set(
    originals: ImageSet,
    snapshots: Mapping[int, Tensor],
    *,
    mode: Mode = "add",
    random_k: torch.Generator | None = None,
) -> ImageSet:
    """Concatenate a training set and its transformed versions p*_K, with labels repeated.

    The paper (Section 3) augments the training set "with two different versions", K = 50 and 100:
    that is mode="add" with two snapshots, three times as many images. Transformed images may leave
    0–255 and are not integers, so the result is float32 and never rounded to uint8.

    Args:
        originals: uint8 or float32 images (N, C, H, W), 0–255.
        snapshots: K → float32 (N, C, H, W) in the originals' order, on any device, as
            `iterative_sign(..., snapshots=(50, 100))` returns them.
        mode: "add" puts the originals first; "replace" leaves them out.
        random_k: a CPU generator that draws one K for each image, uniformly from the snapshots, so
            that each image has one transformed version; None takes all of them.

    Returns:
        A float32 ImageSet: the originals (mode "add"), then the snapshots in increasing order of
        K, or with random_k one transformed version of each image, in the originals' order.

    Raises:
        TypeError: a snapshot is not a float32 tensor.
        ValueError: an unknown mode, no snapshots, a K below 1, a shape other than the originals',
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
    count, kept = len(originals), 1 if mode == "add" else 0
    copies = kept + (len(steps) if random_k is None else 1)
    # Filled in place: for CIFAR-10 the result is 1.8 GB, and torch.cat would need a second copy.
    joined = torch.empty((copies, *originals.images.shape), dtype=torch.float32)
    if kept:
        joined[0].copy_(originals.images)
    if random_k is None:
        for i, k in enumerate(steps):
            joined[kept + i].copy_(snapshots[k])
    else:
        drawn = torch.randint(len(steps), (count,), generator=random_k)
        for i, k in enumerate(steps):
            chosen = (drawn == i).nonzero()[:, 0]
            joined[kept, chosen] = snapshots[k][chosen.to(snapshots[k].device)].cpu()
    listed = ("," if random_k is None else "|").join(map(str, steps))
    name = f"{originals.name}{'+' if mode == 'add' else '→'}sign({listed})"
    labels = originals.labels.repeat(copies)
    return ImageSet(joined.flatten(0, 1), labels, originals.class_names, name)


def _check_snapshot(k: int, images: Tensor, originals: ImageSet) -> None:
    """Raise unless `images` are a finite float32 version of the originals."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"snapshots' keys are step counts K, integers of 1 or more; got {k!r}.")
    if not isinstance(images, Tensor) or images.dtype != torch.float32:
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(
            f"snapshots[{k}] must be a float32 tensor, as iterative_sign returns; got {got}."
        )
    if images.shape != originals.images.shape:
        raise ValueError(
            f"snapshots[{k}] has shape {tuple(images.shape)}, the originals "
            f"{tuple(originals.images.shape)}: give the transformed versions of exactly these "
            "images, in the same order."
        )
    if not bool(torch.isfinite(images).all()):
        raise ValueError(
            f"snapshots[{k}] contains NaN or Inf: the transform diverged. Use a smaller step_size "
            "(SignTransform.calibrate proposes one)."
        )
