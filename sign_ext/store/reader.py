"""Reading a store: memory-mapped, by position or as a whole."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from sign_ext.data import ImageSet, fingerprint
from sign_ext.data.classes import class_differences
from sign_ext.errors import StoreError
from sign_ext.files import open_tensors
from sign_ext.formatting import counted
from sign_ext.store.join import Check, Joined, Versions, join
from sign_ext.store.manifest import (
    Manifest,
    Provenance,
    Skipped,
    read_manifest,
    require_complete,
    shard_file,
    sizes_in_words,
    tensor_name,
)
from sign_ext.store.shard import fault_of, labels_fault, structure_fault, unpack_keys

OPEN_SHARDS = 64  # files kept mapped at a time


def load_transformed(folder: str | Path) -> Transformed:
    """Open a store of transformed images.

    This reads the manifest and compares the sizes of the files. `sign-ext verify` compares their
    checksums.

    Args:
        folder: what `sign-ext transform` or `save_transformed` wrote.

    Returns:
        The store: `snapshots[50]` is p*_50 of all images as one tensor, `at(50)` a
        `torch.utils.data.Dataset` of (image, label), read from the mapped files on access.

    Raises:
        FileNotFoundError: no manifest.
        StoreError: the store is unfinished, or a shard is missing or truncated.
        ValueError: a manifest of another format.

    Example:
        >>> import tempfile
        >>> from sign_ext.store import save_transformed
        >>> images = {50: torch.zeros(2, 3, 4, 4)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_transformed(folder, images, torch.tensor([0, 1]), recipe={"steps": 50})
        ...     store = load_transformed(folder)
        ...     image, label = store.at(50)[1]
        ...     store.recipe, tuple(image.shape), label
        ({'steps': 50}, (3, 4, 4), 1)
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    require_complete(folder, manifest)
    for index, entry in enumerate(manifest.shards):
        if fault := fault_of(folder, index, entry, checksum=False):
            raise StoreError(
                f"{folder}: {fault}. Run its `sign-ext transform` command again to make what is "
                "missing"
            )
    return Transformed(folder, manifest)


class Transformed(Dataset[tuple[dict[int, Tensor], int | Tensor]]):
    """A store, open for reading; made by `load_transformed`.

    As a Dataset it gives ({K: float32 (C, H, W)}, label) for each image, in the data set's order:
    a class as an int, or a target of another kind as a tensor.
    It can be pickled to worker processes; each maps the files itself.

    Args:
        folder: of the store.
        manifest: its manifest.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Compute the first row of each shard."""
        self.folder = folder
        self.manifest = manifest
        counts = (entry.images for entry in manifest.shards)
        self._starts = list(itertools.accumulate(counts, initial=0))
        # A shard's mapped file; of a function without `self`, so that no cycle keeps files open.
        self._shard = lru_cache(OPEN_SHARDS)(partial(_open_shard, folder, manifest))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the mapped files out."""
        return {name: value for name, value in self.__dict__.items() if name != "_shard"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Map the files again."""
        Transformed.__init__(self, state["folder"], state["manifest"])
        self.__dict__.update(state)

    def __len__(self) -> int:
        """Count the images."""
        return self._starts[-1]

    @property
    def recipe(self) -> Provenance:
        """Everything that determined the images."""
        return self.manifest.recipe

    @property
    def steps(self) -> tuple[int, ...]:
        """The snapshots' numbers of steps, ascending."""
        return self.manifest.snapshots

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in label order; () if unknown."""
        return self.manifest.class_names

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of the data set that the store lacks because they could not be read."""
        return tuple(each for entry in self.manifest.shards for each in entry.skipped)

    @cached_property
    def labels(self) -> Tensor:
        """int64 (N,), classes; or the targets in their place, (N, ...), all in memory."""
        labels = self._concatenated("labels")
        if self.manifest.targets is not None:
            return labels
        for shard in range(len(self.manifest.shards)):
            if fault := labels_fault(labels[self.shard_rows(shard)], len(self.class_names)):
                raise _damaged(self.folder, f"{shard_file(shard)}: {fault}")
        return labels

    @cached_property
    def indices(self) -> Tensor:
        """int64 (N,): each image's position in the data set."""
        return self._concatenated("indices")

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Each image's name in the data set: a path, a key in a tar …"""
        found: list[str] = []
        for shard in range(len(self.manifest.shards)):
            file = self._shard(shard)
            try:
                found += unpack_keys(file.get_tensor("keys"), file.get_tensor("key_ends"))
            except ValueError as error:
                raise _damaged(self.folder, f"{shard_file(shard)}: {error}") from error
        return tuple(found)

    @property
    def snapshots(self) -> dict[int, Tensor]:
        """Every snapshot in memory: number of steps K → p*_K, float32 (N, C, H, W)."""
        return {step: self.tensor(step) for step in self.steps}

    def tensor(
        self,
        step: int,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """One snapshot of all images, on a device.

        Args:
            step: number of steps, one of `steps`.
            device: of the result; shards are copied there one by one.
            dtype: of the result: float16 and bfloat16 take half the memory.

        Returns:
            p*_step, (N, C, H, W) in pixel units, not clipped.

        Raises:
            KeyError: the store has no such snapshot.
        """
        name = self._name(step)
        shape = (len(self), *self.manifest.image_shape)
        whole = torch.empty(shape, dtype=dtype, device=device)
        for shard, start in enumerate(self._starts[:-1]):
            images = self._shard(shard).get_tensor(name)
            whole[start : start + len(images)].copy_(images)
        return whole

    def at(self, step: int) -> Snapshot:
        """One snapshot as a `torch.utils.data.Dataset` of (image, label).

        Args:
            step: number of steps, one of `steps`.

        Raises:
            KeyError: the store has no such snapshot.
        """
        self._name(step)
        return Snapshot(self, step)

    def images(self, step: int, positions: Sequence[int]) -> Tensor:
        """Read images of a snapshot from the mapped files.

        Args:
            step: number of steps.
            positions: 0 … N − 1 in any order; negative ones count from the end.

        Returns:
            float32 (n, C, H, W).

        Raises:
            IndexError: a position is out of range.
            KeyError: the store has no such snapshot.
        """
        name = self._name(step)
        found = torch.empty((len(positions), *self.manifest.image_shape))
        for row, position in enumerate(positions):
            shard, shard_row = self._locate(position)
            found[row] = self._shard(shard).get_slice(name)[shard_row]
        return found

    def targets(self, positions: Sequence[int]) -> list[int] | list[Tensor]:
        """Read what images have as labels.

        Args:
            positions: 0 … N − 1 in any order; negative ones count from the end.

        Returns:
            Their classes; or their targets, each of the dtype and shape that the manifest says,
            read from the mapped files.

        Raises:
            IndexError: a position is out of range.
        """
        if self.manifest.targets is None:
            located = [self._starts[shard] + row for shard, row in map(self._locate, positions)]
            return self.labels[located].tolist()
        found = []
        for position in positions:
            shard, row = self._locate(position)
            found.append(self._shard(shard).get_slice("labels")[row : row + 1][0])
        return found

    def join(
        self,
        dataset: Any,
        versions: Versions = "all",
        replace: bool = False,
        transform: Callable[..., Any] | None = None,
        value_range: float = 255,
        *,
        check: Check = "sample",
    ) -> Joined:
        """Join a data set with the versions of its images: a data set of all of them.

        Any map-style data set of (image, target) can be joined with the store that was made from
        it: torchvision's, a Hugging Face `Dataset`, a `TensorDataset`, a `Subset` of one, or this
        package's. Originals and versions come in the same units, whatever the data set gives, and
        targets are the data set's. An image that the store had to skip stays an original.

        Which image is which is proven. Files (`ImageFolder`) are matched by their paths with the
        store's keys; elsewhere positions count. The classes of all images are compared where the
        data set lists them, and the contents of the first, the middle and the last shard by
        fingerprint. `Joined.proof` says what was compared.

        Args:
            dataset: what the store was made from, or a part of it. Its images are Pillow images,
                uint8, or floating in 0–255 or 0–1, without random changes. Files of an
                `ImageFolder` without transform, and Hugging Face's, are decoded and resized as
                `sign-ext transform` did.
            versions: which versions to add: "all", one number of steps or several; "random" adds
                one version of each image, drawn anew each time that it is read.
            replace: leave out the originals of images that have versions.
            transform: called with each image, float32 (C, H, W) in `value_range`, original or
                version; with targets of two dimensions or more called with image and target, and
                returns both. Augmentation and normalisation belong here; one with a mean and std
                for images of 0–1 needs value_range=1, and a PixelRangeWarning says so.
            value_range: 255 for pixel units, 1 for 0 to 1. Versions may leave the range.
            check: "sample" compares the contents of three shards at most, "all" every shard.

        Returns:
            The data set: (image, target), originals first, then the versions by number of steps.

        Raises:
            TypeError: a data set of another kind.
            ValueError: the store was not made from it, and the message says where they differ; an
                unknown version; or images in units that are not known.

        Example:
            >>> import tempfile
            >>> from torch.utils.data import TensorDataset
            >>> from sign_ext.store import load_transformed, save_transformed
            >>> images = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)
            >>> mine = TensorDataset(images / 255, torch.tensor([0, 1, 0, 1]))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     versions = {50: images + 0.5, 100: images + 1.0}
            ...     _ = save_transformed(
            ...         folder, versions, mine.tensors[1], recipe={}, originals=images
            ...     )
            ...     both = load_transformed(folder).join(mine, value_range=1)
            ...     original, version = both[1][0], both[5][0]
            >>> len(both), float(((version - original) * 255).mean().round(decimals=3))
            (12, 0.5)
        """
        return join(
            self,
            dataset,
            versions=versions,
            replace=replace,
            transform=transform,
            value_range=value_range,
            check=check,
        )

    def __getitem__(self, position: int) -> tuple[dict[int, Tensor], int | Tensor]:
        """All snapshots of one image, and its label."""
        images = {step: self.images(step, [position])[0] for step in self.steps}
        return images, self.targets([position])[0]

    def shard_rows(self, shard: int) -> slice:
        """The rows of the store that a shard holds.

        Args:
            shard: its index.
        """
        return slice(self._starts[shard], self._starts[shard + 1])

    def _locate(self, position: int) -> tuple[int, int]:
        """Return an image's shard and its row there."""
        count = len(self)
        if not -count <= position < count:
            raise IndexError(f"position {position}; {self.folder} holds {counted(count, 'image')}")
        position %= count
        shard = bisect.bisect_right(self._starts, position) - 1
        return shard, position - self._starts[shard]

    def _name(self, step: int) -> str:
        if step not in self.steps:
            raise KeyError(f"{self.folder} has no snapshot {step!r}; it has {list(self.steps)}")
        return tensor_name(step)

    def _concatenated(self, name: str) -> Tensor:
        shards = range(len(self.manifest.shards))
        return torch.cat([self._shard(shard).get_tensor(name) for shard in shards])


def _open_shard(folder: Path, manifest: Manifest, index: int) -> Any:
    """Map a shard's file, and check that it is what the manifest says."""
    path = folder / shard_file(index)
    try:
        file = open_tensors(path)
    except Exception as error:  # safetensors raises several kinds for a damaged file
        raise _damaged(folder, f"{path.name} cannot be read ({error})") from error
    if fault := structure_fault(file, manifest, index, manifest.shards[index]):
        raise _damaged(folder, fault)
    return file


def _damaged(folder: Path, fault: str) -> StoreError:
    return StoreError(
        f"{folder}: {fault}. `sign-ext verify {folder}` finds all faults, running its "
        "`sign-ext transform` again repairs them"
    )


class Snapshot(Dataset[tuple[Tensor, int | Tensor]]):
    """One snapshot of a store: (float32 image (C, H, W), label) at each position.

    Args:
        store: open for reading.
        step: one of its `steps`.
    """

    def __init__(self, store: Transformed, step: int) -> None:
        """Keep both."""
        self.store = store
        self.step = step

    def __len__(self) -> int:
        """Count the images."""
        return len(self.store)

    def __getitem__(self, position: int) -> tuple[Tensor, int | Tensor]:
        """One image and its label."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[tuple[Tensor, int | Tensor]]:
        """A batch of them, as a DataLoader asks for it."""
        images = self.store.images(self.step, positions)
        return list(zip(images, self.store.targets(positions), strict=True))


def require_made_from(
    store: Transformed, originals: ImageSet, skipped: Sequence[int] = ()
) -> Tensor:
    """Raise unless a store was made from these images, so that the two may be joined.

    Args:
        store: open for reading.
        originals: the images, in the order of the data set.
        skipped: positions in the data set of the images that `originals` lacks because they could
            not be read.

    Returns:
        int64 (len(store),): the position in `originals` of each image of the store, which lacks
        those that could not be read when it was made.

    Raises:
        ValueError: a shard was made from other images, or in another order, or the classes have
            other names; the message shows the difference.
    """
    hint = "use the same --data, --train-size, --image-size and --seed in both commands"
    names = store.class_names
    if names and names != originals.class_names:
        different = class_differences(
            names, originals.class_names, (str(store.folder), originals.name)
        )
        raise ValueError(f"{different}: {hint}")
    data = store.recipe.get("data", {})
    content = (
        f"{store.folder} holds {data.get('name', 'unknown data')}, "
        f"{counted(store.manifest.images, 'image')}"
    )
    stored, here = store.manifest.image_shape, tuple(originals.images.shape[1:])
    if stored != here:
        raise ValueError(
            f"{store.folder} holds images of another size: {sizes_in_words(stored, here)}. "
            "Use the same --image-size in both commands"
        )
    rows = _rows_of(store, originals, skipped)
    if rows is None:
        raise ValueError(
            f"{store.folder} was not made from this training set ({content}; these are "
            f"{len(originals) + len(skipped):,}): {hint}"
        )
    if len(missing := store.indices[rows < 0]):
        raise ValueError(
            f"{store.folder} has a version of {store.keys[int((rows < 0).nonzero()[0])]!r} "
            f"and of {len(missing) - 1:,} other images that cannot be read any more: put them back "
            "as they were, or transform again"
        )
    for shard, entry in enumerate(store.manifest.shards):
        if entry.originals is None:
            raise ValueError(
                f"{content}, but does not record which ones: it was not made by "
                "`sign-ext transform`"
            )
        if fingerprint(originals.subset(rows[store.shard_rows(shard)])) != entry.originals:
            raise ValueError(
                f"{store.folder} was not made from this training set ({content}): {hint}"
            )
    return rows


def _rows_of(store: Transformed, originals: ImageSet, skipped: Sequence[int]) -> Tensor | None:
    """Find a store's images among the originals by position; -1 for those that were skipped.

    None if the numbers of images do not fit.
    """
    count = store.manifest.images
    if len(originals) + len(skipped) == count:
        row_of = torch.full((count,), -1, dtype=torch.int64)
        there = torch.ones(count, dtype=torch.bool)
        there[torch.tensor(skipped, dtype=torch.int64)] = False
        row_of[there] = torch.arange(len(originals))
        return row_of[store.indices]
    if len(originals) == len(store) and not len(skipped):
        # Those that the store lacks were removed from the data set since.
        return torch.arange(len(store))
    return None
