"""Anybody's data set of (image, target) as an `ImageSource`, which `transform_to_store` reads."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sign_ext.data.pairs import Pairs, pairs_of, require_repeatable
from sign_ext.data.source import TARGET_DTYPES, ImageSource, Targets


class UnreadableItem(ValueError):
    """An item of a data set cannot be read as an image."""


def source_of(
    dataset: Dataset[Any] | Any,
    *,
    image_size: int | None = None,
    name: str | None = None,
    class_names: Sequence[str] = (),
) -> ImageSource:
    """Make a source of anybody's data set of (image, target), for `transform_to_store`.

    Every image is read once here, to know the targets and to recognise the data later; files of an
    `ImageFolder` without transform are only listed. The data set must give the same each time.

    Args:
        dataset: as for `pairs_of`. Targets: a class (an integer from 0); or a number, or a tensor
            of one shape and dtype for all images: several classes, a mask, a vector.
        image_size: resize to squares of this many pixels; None if all have one size.
        name: of the data; by default that of the data set's class.
        class_names: in label order; by default the data set's, or numbers.

    Returns:
        The source. Its keys are the files' paths relative to the data set's root, or else its name
        and positions.

    Raises:
        TypeError: a data set or targets of another kind.
        ValueError: images of different sizes, or of floating values that are not grey levels;
            targets of different kinds; an item that is another one each time it is read; an item
            that cannot be read, if the data set does not list its class elsewhere.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
        >>> source = source_of(TensorDataset(images, torch.eye(4)))
        >>> source.targets.shape, source.keys(0, 1)
        ((4,), ['TensorDataset/0'])
    """
    pairs = pairs_of(dataset)
    if isinstance(dataset, ImageSource):
        return dataset
    if not len(pairs):
        raise ValueError(f"{pairs.name} has no images")
    name = name or pairs.name
    first, target = pairs.pair(0, image_size)
    require_repeatable(pairs, 0, image_size)
    _require_bytes(pairs, 0, first)
    _require_fitting(pairs, 0, image_size, target)
    kind = stored_target(target, pairs.key(0))
    shape = tuple(first.shape)
    lock = threading.Lock()  # who knows whether the data set may be read by several threads

    def pixels(position: int) -> Tensor:
        try:
            image = pairs.image(position, image_size)
        except ValueError as error:
            raise UnreadableItem(str(error)) from error
        _require_bytes(pairs, position, image)
        if tuple(image.shape) != shape:
            raise ValueError(
                f"{name}: {pairs.key(position)} is {tuple(image.shape)}, and the first image "
                f"{shape}: pass image_size to resize all to squares"
            )
        return image

    def read(start: int, stop: int) -> Tensor:
        with lock:
            return torch.stack([pixels(position) for position in range(start, stop)])

    def read_targets(positions: Tensor) -> Tensor:
        with lock:
            return torch.stack(
                [
                    require_kind(stored_target(pairs.target(i), pairs.key(i)), kind, pairs.key(i))
                    for i in positions.tolist()
                ]
            )

    labels = np.zeros(len(pairs), dtype=np.int64)
    digest = hashlib.sha256()
    for position in range(len(pairs)):
        known = pairs.identity(position)
        if known is None:
            known = _content(pairs, position, pixels)
        stored = stored_target(pairs.target(position), pairs.key(position))
        require_kind(stored, kind, pairs.key(position))
        if is_class(kind):
            labels[position] = int(stored)
        digest.update(b"%d;" % len(known) + known + fingerprint_bytes(stored))
    names, targets = _class_names(pairs, class_names, labels), None
    if not is_class(kind):
        names = tuple(class_names)
        targets = Targets(kind.dtype, tuple(kind.shape), read_targets)
    head = {"classes": list(names), "shape": list(shape), "images": len(pairs)}
    return ImageSource(
        name,
        labels,
        names,
        cast(tuple[int, int, int], shape),
        hashlib.sha256(json.dumps(head).encode() + digest.digest()).hexdigest(),
        f"{len(pairs):,} images of a {type(pairs.base.dataset).__name__}",
        0,
        read,
        lambda start, stop: _keys(pairs, name, start, stop),
        targets=targets,
    )


def _content(pairs: Pairs, position: int, pixels: Callable[[int], Tensor]) -> bytes:
    """Hash an image; one that cannot be read counts as such if its class is known without it."""
    try:
        return fingerprint_bytes(pixels(position))
    except UnreadableItem:
        if pairs.classes is None or pairs.retargeted:
            raise
        return b"unreadable"


def stored_target(target: Any, key: str) -> Tensor:
    """Convert a target to the tensor that a store holds: int64 () for a class.

    Args:
        target: an integer, a number, a tensor, an array, or a list of numbers.
        key: what a message calls its image.

    Raises:
        TypeError: anything else.
    """
    if isinstance(target, Tensor):
        found = target.as_subclass(Tensor).detach().cpu()
        if found.ndim == 0 and not found.is_floating_point():
            found = found.to(torch.int64)
    elif isinstance(target, float | np.floating):
        found = torch.tensor(float(target), dtype=torch.float32)
    elif isinstance(target, int | np.integer):
        found = torch.tensor(int(target))
    else:
        try:
            found = torch.as_tensor(np.asarray(target))
        except (TypeError, ValueError):
            found = torch.empty(0, dtype=torch.complex64)
        if isinstance(target, list | tuple) and found.is_floating_point():
            found = found.float()
    if found.dtype not in TARGET_DTYPES.values():
        raise TypeError(
            f"the target of {key} is a {type(target).__name__}"
            + (f" of {found.dtype}" if isinstance(target, Tensor) else "")
            + f"; a store holds numbers and tensors of {', '.join(TARGET_DTYPES)}"
        )
    return found.contiguous()


def is_class(target: Tensor) -> bool:
    """Return whether a stored target is one class.

    Args:
        target: from `stored_target`.
    """
    return target.dtype == torch.int64 and target.ndim == 0


def require_kind(target: Tensor, like: Tensor, key: str) -> Tensor:
    """Return a target, or raise ValueError if it is of another kind than the first.

    Args:
        target: from `stored_target`.
        like: the first image's.
        key: what a message calls its image.
    """
    if target.dtype != like.dtype or target.shape != like.shape:
        raise ValueError(
            f"the target of {key} is {target.dtype} {tuple(target.shape)}, and the first one "
            f"{like.dtype} {tuple(like.shape)}; accepted: one kind for all"
        )
    if is_class(target) and int(target) < 0:
        raise ValueError(f"the class of {key} is {int(target)}; accepted: 0 or more")
    return target


def fingerprint_bytes(tensor: Tensor) -> bytes:
    """Hash a tensor's shape and values.

    Args:
        tensor: on the CPU.
    """
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)};".encode())
    digest.update(tensor.contiguous().numpy().tobytes())
    return digest.digest()


def _class_names(pairs: Pairs, given: Sequence[str], labels: np.ndarray) -> tuple[str, ...]:
    names = tuple(given) or pairs.class_names
    count = int(labels.max()) + 1
    if names and count > len(names):
        raise ValueError(
            f"labels range to {count - 1}, and there are {len(names)} class_names; accepted: 0 to "
            f"{len(names) - 1}"
        )
    return names or tuple(str(label) for label in range(count))


def _keys(pairs: Pairs, name: str, start: int, stop: int) -> list[str]:
    if pairs.paths is None:
        return [f"{name}/{position}" for position in range(start, stop)]
    root = getattr(pairs.base.dataset, "root", None)
    prefix = "" if root is None else Path(root).as_posix().rstrip("/") + "/"
    return [path.removeprefix(prefix) for path in pairs.paths[start:stop]]


def _require_bytes(pairs: Pairs, position: int, image: Tensor) -> None:
    if image.dtype != torch.uint8:
        raise ValueError(
            f"{pairs.name}: {pairs.key(position)} is not of whole grey levels, which are what "
            "transform_to_store reads. Transform such images with SignTransform and store them "
            "with save_transformed(…, originals=images)"
        )


def _require_fitting(pairs: Pairs, position: int, size: int | None, target: Any) -> None:
    """Raise if resizing would part an image from its mask."""
    dense = target.shape[-2:] if isinstance(target, Tensor) and target.ndim >= 2 else None
    if size is None or dense is None:
        return
    own = pairs.image(position, None).shape[1:]
    if tuple(dense) == tuple(own) != (size, size):
        raise ValueError(
            f"{pairs.name}: the target of {pairs.key(position)} has a value for each of its "
            f"{own[0]}×{own[1]} pixels, and image_size={size} resizes the image alone: resize both "
            "in the data set"
        )
