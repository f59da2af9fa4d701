"""The images within a batch of a data pipeline: a tensor, or dicts, lists and tuples around one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

IMAGE_KEYS = ("image", "images", "img", "pixel_values")


def transform_in(sample: Any, transform: Callable[[Tensor], Any]) -> Any:
    """Apply a transform to the images of a batch, which may be anything that pipelines pass on.

    Args:
        sample: the images, or dicts, lists and tuples that hold them with labels and the like.
        transform: images → what takes their place; a tensor becomes an `Image` of torchvision's
            tv_tensors where the images are one.

    Raises:
        TypeError: there are no images in the batch.

    Example:
        >>> transform_in({"image": torch.ones(1, 3, 2, 2), "label": 7}, torch.sum)
        {'image': tensor(12.), 'label': 7}
    """

    def moved(images: Any) -> Any:
        result = transform(images)
        if _is_tv_image(images) and isinstance(result, Tensor):
            return result.as_subclass(type(images))
        return result

    if isinstance(sample, Tensor) or not isinstance(sample, Mapping | list | tuple):
        return moved(sample)  # `transform` says what is wrong with it
    path, images = _images_in(list(_leaves(sample)))
    return _replaced(sample, path, moved(images))


_Path = tuple[Any, ...]  # keys of dicts and positions in lists and tuples, from the outside in


def _leaves(sample: Any, path: _Path = ()) -> Iterator[tuple[_Path, Any]]:
    """What the containers of a batch hold, and where."""
    if isinstance(sample, Mapping):
        held: Any = sample.items()
    elif isinstance(sample, list | tuple):
        held = enumerate(sample)
    else:
        yield path, sample
        return
    for key, value in held:
        yield from _leaves(value, (*path, key))


def _replaced(sample: Any, path: _Path, value: Any) -> Any:
    """A batch with another value in one place; what is not around it stays the same object."""
    if not path:
        return value
    inner = _replaced(sample[path[0]], path[1:], value)
    if isinstance(sample, tuple):
        values = [inner if i == path[0] else each for i, each in enumerate(sample)]
        return type(sample)(*values) if hasattr(sample, "_fields") else tuple(values)
    changed = copy.copy(sample)
    changed[path[0]] = inner
    return changed


def _images_in(leaves: list[tuple[_Path, Any]]) -> tuple[_Path, Any]:
    """Where the images of a batch are, and the images."""
    rules: tuple[Callable[[_Path, Any], bool], ...] = (
        lambda path, leaf: _is_tv_image(leaf),
        lambda path, leaf: isinstance(leaf, Tensor) and path[-1] in IMAGE_KEYS,
        lambda path, leaf: (
            isinstance(leaf, Tensor)
            and leaf.is_floating_point()
            and leaf.dim() >= 3
            and not _is_tv_tensor(leaf)
        ),
    )
    for rule in rules:
        for path, leaf in leaves:
            if rule(path, leaf):
                return path, leaf
    held = ", ".join(
        f"{leaf.dtype} {tuple(leaf.shape)}" if isinstance(leaf, Tensor) else type(leaf).__name__
        for _, leaf in leaves
    )
    raise TypeError(
        f"the batch holds no images; it holds: {held or 'nothing'}. Accepted: an Image of "
        f"tv_tensors, a key {', '.join(IMAGE_KEYS)}, or a floating tensor (N, C, H, W): convert "
        "with v2.ToDtype(torch.float32), which keeps 0–255"
    )


def _is_tv_tensor(value: Any) -> bool:
    return type(value).__module__.startswith("torchvision.tv_tensors")


def _is_tv_image(value: Any) -> bool:
    return _is_tv_tensor(value) and type(value).__name__ == "Image"
