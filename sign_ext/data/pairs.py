"""Data sets of others, as (image, target) pairs in this package's units.

torchvision's and Hugging Face's data sets, torch's `TensorDataset` and any other that gives
(image, target) or a dict become `Pairs`, whose images are pixels 0–255, decoded and resized by the
rule of `decode.py` wherever the file or its bytes can be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, Subset, TensorDataset

from sign_ext.data.decode import (
    FORMATS,
    decode_errors,
    decode_file,
    decode_pil,
    decode_rgb,
    resize_images,
)
from sign_ext.data.formats.huggingface import columns_of, image_data, labels_of
from sign_ext.data.image_set import ImageSet
from sign_ext.data.lazy import LARGEST_LABEL
from sign_ext.data.source import ImageSource

IMAGE_KEYS = ("image", "img", "images", "pixel_values")
TARGET_KEYS = ("label", "labels", "target", "targets", "mask")
SCALE_SAMPLE = 16  # floating images from which the range of all is told
WHOLE = 1e-3  # how far a value may be from a grey level that it stands for
LEAST_PIXELS = 16.0  # floating images that reach this are in 0–255: standardised ones never do
_ADVICE = "Repair it or leave it out with torch.utils.data.Subset."


class Pairs:
    """Images and targets of a data set by position, in pixel units.

    Args:
        dataset: the data set.

    Attributes:
        name: what messages call it.
        class_names: in label order; () if unknown.
        paths: the images' files with slashes; None where they come from none that is known.
        classes: int64 (N,), the class of each image as the data set lists it, before any
            ``target_transform``; None where that is not known without reading every image.
        retargeted: whether a ``target_transform`` may change what `classes` lists.
    """

    class_names: tuple[str, ...] = ()
    paths: tuple[str, ...] | None = None
    classes: Tensor | None = None
    retargeted = False

    def __init__(self, dataset: Any) -> None:
        """Keep the data set."""
        self.dataset = dataset
        self.name = type(dataset).__name__

    def __len__(self) -> int:
        """Count the images."""
        return len(self.dataset)

    @property
    def base(self) -> Pairs:
        """The data set that this one is a part of, or itself."""
        return self

    def positions(self) -> list[int]:
        """Where in `base` each image is."""
        return list(range(len(self)))

    def image(self, position: int, size: int | None) -> Tensor:
        """Read an image.

        Args:
            position: 0 … N − 1.
            size: resize to size × size pixels by the rule of `decode_rgb`; None keeps its own size.

        Returns:
            (C, H, W), 0–255: uint8, or float32 if the data set's values are not whole.

        Raises:
            ValueError: it cannot be read, or is in no units that are known; the message names it.
        """
        raise NotImplementedError

    def target(self, position: int) -> Any:
        """Read a target as the data set gives it, a Pillow mask as a tensor.

        Args:
            position: 0 … N − 1.
        """
        raise NotImplementedError

    def pair(self, position: int, size: int | None) -> tuple[Tensor, Any]:
        """Read both.

        Args:
            position: 0 … N − 1.
            size: as for `image`.
        """
        return self.image(position, size), self.target(position)

    def identity(self, position: int) -> bytes | None:
        """Tell an image from others without decoding it; None where that is not possible.

        Args:
            position: 0 … N − 1.
        """
        return None

    def key(self, position: int) -> str:
        """Name an image.

        Args:
            position: 0 … N − 1.
        """
        return self.paths[position] if self.paths is not None else f"item {position}"


class _Items(Pairs):
    """What gives an image and a target for an index, as a tuple or a dict."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self.class_names = _names(getattr(dataset, "classes", None))
        self.retargeted = bool(getattr(dataset, "target_transform", None)) or bool(
            getattr(dataset, "transforms", None) and not getattr(dataset, "transform", None)
        )
        if (samples := _samples(dataset)) is not None:
            self.paths = tuple(Path(path).as_posix() for path, _ in samples)
            self.classes = torch.tensor([label for _, label in samples])
        elif isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1:
            self.classes = _classes(dataset.tensors[1], len(dataset))
        else:
            self.classes = _classes(getattr(dataset, "targets", None), len(dataset))
        self._unit: bool | None = None  # whether floating images are in 0–1
        self._listed: bool | None = None  # whether targets are what `classes` lists

    def pair(self, position: int, size: int | None) -> tuple[Tensor, Any]:
        image, target = self._raw(position)
        with decode_errors(f"{self.name}: {self.key(position)}"):
            return self._pixels(image, size), _plain_target(target)

    def image(self, position: int, size: int | None) -> Tensor:
        return self.pair(position, size)[0]

    def target(self, position: int) -> Any:
        if isinstance(self.dataset, TensorDataset):
            return self.dataset.tensors[1][position]
        if self.classes is not None and self._gives_classes():
            return int(self.classes[position])
        return _plain_target(self._raw(position)[1])

    def _gives_classes(self) -> bool:
        """Whether targets are the classes as listed: a data set may give them in another form."""
        if self._listed is None:
            target = self._raw(0)[1]
            as_number = isinstance(target, int | np.integer) and not self.retargeted
            self._listed = as_number and self.classes is not None and target == self.classes[0]
        return bool(self._listed)

    def _raw(self, position: int) -> tuple[Any, Any]:
        """The data set's own image and target."""
        with decode_errors(f"{self.name}: {self.key(position)} cannot be read", _ADVICE):
            item = self.dataset[position]
        if isinstance(item, Mapping):
            return self._value(item, IMAGE_KEYS), self._value(item, TARGET_KEYS)
        if isinstance(item, tuple | list) and len(item) >= 2:
            return item[0], item[1]
        raise TypeError(
            f"{self.name} gives a {type(item).__name__} for an index; accepted: (image, target), "
            f"or a dict with one of the keys {', '.join(IMAGE_KEYS)} and one of "
            f"{', '.join(TARGET_KEYS)}"
        )

    def _value(self, item: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
        found = next((key for key in keys if key in item), None)
        if found is None:
            raise TypeError(
                f"{self.name} gives dicts with the keys {', '.join(map(str, item))}; accepted: one "
                f"of {', '.join(keys)}. Rename the column"
            )
        return item[found]

    def _pixels(self, image: Any, size: int | None) -> Tensor:
        """An image in pixel units."""
        if not isinstance(image, Tensor):
            array = image if isinstance(image, np.ndarray) else None
            if array is None and not hasattr(image, "getbands"):
                raise ValueError(
                    f"its image is a {type(image).__name__}; accepted: a Pillow image, a tensor "
                    "(C, H, W) or a NumPy array (H, W, C)"
                )
            if array is None:
                array = decode_pil(image, size)
            elif array.ndim == 2:
                array = array[:, :, None]
            image = torch.from_numpy(np.ascontiguousarray(array.transpose(2, 0, 1)))
        image = image.as_subclass(Tensor).detach().cpu()
        if image.ndim != 3:
            raise ValueError(f"its image is {tuple(image.shape)}; accepted: (C, H, W)")
        if image.is_floating_point():
            image = self._scaled(image.float())
        elif image.dtype != torch.uint8:
            low, high = int(image.min()), int(image.max())
            if low < 0 or high > 255:
                raise ValueError(f"its values range from {low} to {high}; accepted: 0 to 255")
            image = image.to(torch.uint8)
        return resized(image, size)

    def _scaled(self, image: Tensor) -> Tensor:
        """A floating image in pixel units: as bytes if it holds whole grey levels."""
        if self._unit is None:
            self._unit = self._is_unit()
        if self._unit:
            low, high = float(image.min()), float(image.max())
            if low < -WHOLE or high > 1 + WHOLE:
                raise ValueError(
                    f"its values range from {low:.4g} to {high:.4g}, but others of the data set "
                    "are in 0 to 1"
                )
            image = image * 255
        return as_pixels(image)

    def _is_unit(self) -> bool:
        """Whether the data set's floating images are in 0–1; if not, they are in 0–255."""
        spread = np.unique(np.linspace(0, len(self) - 1, SCALE_SAMPLE).astype(int)).tolist()
        images = [self._raw(position)[0] for position in spread]
        images = [each for each in images if isinstance(each, Tensor) and each.is_floating_point()]
        low = min(float(each.min()) for each in images)
        high = max(float(each.max()) for each in images)
        if low >= 0 and high <= 1:
            return True
        if high >= LEAST_PIXELS and low > -high:
            return False
        raise ValueError(
            f"the images of {self.name} range from {low:.4g} to {high:.4g}, which is neither 0 to "
            "255 nor 0 to 1: they look standardised. Take the normalisation out of the data set's "
            "own transform; join(transform=…) takes it, for originals and versions alike, with "
            "value_range=1 if its mean and std are for images of 0 to 1 (otherwise the transform "
            "gets pixel units, 0 to 255)"
        )


class _Files(_Items):
    """torchvision's ImageFolder without a transform of its own: files are decoded here."""

    def image(self, position: int, size: int | None) -> Tensor:
        path = Path(self.dataset.samples[position][0])
        return _from_rows(decode_file(path, size, _ADVICE, FORMATS))

    def target(self, position: int) -> Any:
        label = self.dataset.samples[position][1]
        change = self.dataset.target_transform
        return label if change is None else change(label)

    def pair(self, position: int, size: int | None) -> tuple[Tensor, Any]:
        return self.image(position, size), self.target(position)

    def identity(self, position: int) -> bytes | None:
        path = Path(self.dataset.samples[position][0])
        try:
            relative = path.relative_to(self.dataset.root).as_posix()
            return f"{relative} {path.stat().st_size}".encode("utf-8", "surrogateescape")
        except (OSError, ValueError):
            return None


class _HuggingFace(Pairs):
    """A `datasets.Dataset`: the encoded images are decoded here."""

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        if dataset.format["type"] == "custom":
            raise ValueError(
                "the data set has a transform of its own (with_transform or set_transform): pass "
                "dataset.with_format(None), and the transform to join(transform=…), which applies "
                "it to originals and versions alike"
            )
        from datasets import ClassLabel, Image  # type: ignore[import-untyped]

        image, label = columns_of(dataset.features)
        feature = dataset.features[label]
        if isinstance(feature, ClassLabel):
            self.class_names = tuple(feature.names)
        plain = dataset.with_format(None).select_columns([image, label])
        self._rows = plain.cast_column(image, Image(decode=False))
        self._image, self._label = image, label
        self.name = f"the data set of {image} and {label}"
        if getattr(feature, "dtype", "") in ("int64", "int32", "int16", "int8", "uint8"):
            most = len(self.class_names) or LARGEST_LABEL + 1
            self.classes = torch.tensor(labels_of(dataset, label, most))

    def image(self, position: int, size: int | None) -> Tensor:
        with decode_errors(f"{self.name}, row {position} cannot be read as an image", _ADVICE):
            data = image_data(self._rows[position][self._image])
            return _from_rows(decode_rgb(data, size, FORMATS))

    def target(self, position: int) -> Any:
        if self.classes is not None:
            return int(self.classes[position])
        return _plain_target(self._rows[position][self._label])


class _Sets(Pairs):
    """An `ImageSet`."""

    def __init__(self, dataset: ImageSet) -> None:
        super().__init__(dataset)
        self.name, self.class_names, self.classes = (
            dataset.name,
            dataset.class_names,
            dataset.labels,
        )

    def image(self, position: int, size: int | None) -> Tensor:
        return resized(self.dataset.images[position], size)

    def target(self, position: int) -> Any:
        return int(self.dataset.labels[position])


class _Sources(Pairs):
    """An `ImageSource`."""

    def __init__(self, dataset: ImageSource) -> None:
        super().__init__(dataset)
        self.name, self.class_names = dataset.name, dataset.class_names
        self.paths = tuple(dataset.keys(0, len(dataset)))
        if dataset.targets is None:
            self.classes = torch.from_numpy(dataset.labels)

    def image(self, position: int, size: int | None) -> Tensor:
        return resized(self.dataset.read(position, position + 1)[0], size)

    def target(self, position: int) -> Any:
        found = self.dataset.targets_of(torch.tensor([position]))[0]
        return found if self.dataset.targets is not None else int(found)


class _Part(Pairs):
    """A torch `Subset` of any of them."""

    def __init__(self, dataset: Subset[Any]) -> None:
        super().__init__(dataset)
        self._whole = pairs_of(dataset.dataset)
        self._at = [int(each) for each in dataset.indices]
        self.name, self.class_names = self._whole.name, self._whole.class_names
        self.retargeted = self._whole.retargeted
        if (paths := self._whole.paths) is not None:
            self.paths = tuple(paths[each] for each in self._at)
        if self._whole.classes is not None:
            self.classes = self._whole.classes[self._at]

    @property
    def base(self) -> Pairs:
        return self._whole.base

    def positions(self) -> list[int]:
        inside = self._whole.positions()
        return [inside[each] for each in self._at]

    def image(self, position: int, size: int | None) -> Tensor:
        return self._whole.image(self._at[position], size)

    def target(self, position: int) -> Any:
        return self._whole.target(self._at[position])

    def pair(self, position: int, size: int | None) -> tuple[Tensor, Any]:
        return self._whole.pair(self._at[position], size)

    def identity(self, position: int) -> bytes | None:
        return self._whole.identity(self._at[position])


def pairs_of(dataset: Any) -> Pairs:
    """Read somebody's data set as `Pairs`.

    Args:
        dataset: with a length, giving (image, target) or a dict for an index: torchvision's, a
            Hugging Face `datasets.Dataset`, a `TensorDataset`, a `Subset` of one, this package's
            `ImageSet` and `ImageSource`. Images are Pillow images, uint8, or floating in 0–255 or
            0–1.

    Raises:
        TypeError: a data set of another kind.
        ValueError: a Hugging Face data set with a transform of its own, or without such columns.

    Example:
        >>> images = torch.arange(2 * 3 * 4 * 4).reshape(2, 3, 4, 4).to(torch.uint8)
        >>> pairs = pairs_of(TensorDataset(images / 255, torch.tensor([1, 0])))
        >>> torch.equal(pairs.image(1, None), images[1]), pairs.classes.tolist()
        (True, [1, 0])
    """
    if isinstance(dataset, ImageSet):
        return _Sets(dataset)
    if isinstance(dataset, ImageSource):
        return _Sources(dataset)
    if isinstance(dataset, Subset):
        return _Part(dataset)
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise TypeError(
            f"{type(dataset).__name__} gives no image for an index; accepted: a map-style data "
            "set, with __len__ and __getitem__, of (image, target) or dicts"
        )
    if isinstance(dataset, Mapping):
        raise TypeError(
            f"a {type(dataset).__name__} holds several data sets ({', '.join(map(str, dataset))}): "
            "pass one of them"
        )
    if type(dataset).__module__.partition(".")[0] == "datasets" and hasattr(dataset, "features"):
        return _HuggingFace(dataset)
    if not isinstance(dataset, Sized):
        raise TypeError(f"{type(dataset).__name__} has no length; accepted: a map-style data set")
    if _samples(dataset) is not None and _loads_plainly(dataset):
        return _Files(dataset)
    return _Items(dataset)


def require_repeatable(pairs: Pairs, position: int, size: int | None) -> None:
    """Raise ValueError if an image is another one each time it is read.

    Args:
        pairs: the data set.
        position: of the image.
        size: as for `Pairs.image`.
    """
    one, other = (pairs.image(position, size) for _ in range(2))
    if one.shape != other.shape or not torch.equal(one, other):
        raise ValueError(
            f"{pairs.name} gives another image each time {pairs.key(position)} is read: its own "
            "transform is random. Take it out of the data set; join(transform=…) takes it, for "
            "originals and versions alike"
        )


def as_pixels(images: Tensor) -> Tensor:
    """Return images as bytes if they hold whole grey levels, else as float32.

    Args:
        images: uint8 or float32, 0–255.
    """
    images = images.detach().cpu()
    if images.dtype == torch.uint8 or not images.numel():
        return images
    whole = images.round()
    near = float((images - whole).abs().max()) <= WHOLE
    return whole.to(torch.uint8) if near and whole.min() >= 0 and whole.max() <= 255 else images


def stack_pixels(images: Iterable[Tensor]) -> Tensor:
    """Stack images, each as `as_pixels` gives it: uint8 if all are, else float32.

    Args:
        images: (C, H, W) each, of one shape.
    """
    rows = [as_pixels(each) for each in images]
    if any(each.dtype != torch.uint8 for each in rows):
        rows = [each.float() for each in rows]
    return torch.stack(rows)


def resized(image: Tensor, size: int | None) -> Tensor:
    """Resize an image that is no file by the rule for pixels, `resize_images`.

    Args:
        image: (C, H, W).
        size: new height and width; None keeps them.

    Raises:
        ValueError: a float32 image of another size.
    """
    if size is None or tuple(image.shape[1:]) == (size, size):
        return image
    if image.dtype != torch.uint8:
        raise ValueError(
            f"it is {tuple(image.shape)} and not of whole grey levels: resize it to {size}×{size} "
            "in the data set"
        )
    return resize_images(image[None], size)[0]


def _from_rows(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def _plain_target(target: Any) -> Any:
    """A target as it came, except that a Pillow mask becomes a tensor."""
    return torch.from_numpy(np.array(target)) if hasattr(target, "getbands") else target


def _names(names: Any) -> tuple[str, ...]:
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def _samples(dataset: Any) -> Sequence[tuple[Any, int]] | None:
    """The files and labels that torchvision's folders list."""
    samples = getattr(dataset, "samples", None)
    if not isinstance(samples, list) or len(samples) != len(dataset) or not samples:
        return None
    first = samples[0]
    if not (isinstance(first, tuple) and len(first) == 2 and isinstance(first[0], str | Path)):
        return None
    return samples if isinstance(first[1], int) else None


def _loads_plainly(dataset: Any) -> bool:
    """Whether a folder of torchvision gives the decoded files, changed by nothing."""
    loader = getattr(dataset, "loader", None)
    usual = getattr(loader, "__module__", "") == "torchvision.datasets.folder"
    plain = getattr(dataset, "transform", None) is None
    change = getattr(dataset, "transforms", None)
    of_its_own = change is not None and type(change).__name__ != "StandardTransform"
    return usual and plain and not of_its_own and hasattr(dataset, "target_transform")


def _classes(labels: Any, count: int) -> Tensor | None:
    """Labels that a data set lists, if they are one class an image."""
    if isinstance(labels, list) and labels and all(isinstance(each, int) for each in labels):
        labels = torch.tensor(labels)
    if isinstance(labels, np.ndarray):
        labels = torch.from_numpy(labels)
    if not isinstance(labels, Tensor) or labels.shape != (count,) or labels.dtype != torch.int64:
        return None
    return labels
