"""A data set joined with a store of its versions, for any training loop."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from sign_ext.data.classes import class_differences
from sign_ext.data.from_pairs import is_class, stored_target
from sign_ext.data.image_set import fingerprint_of
from sign_ext.data.pairs import Pairs, pairs_of, require_repeatable, stack_pixels
from sign_ext.errors import PixelRangeWarning
from sign_ext.store.manifest import Manifest, Skipped, sizes_in_words

Versions = Literal["all", "random"] | int | Sequence[int]
Check = Literal["sample", "all"]
SHARDS_CHECKED = 3
REPEATED = 4  # images of a shard that are read twice: a flip may come out the same
RANDOM = -1  # in place of a number of steps: drawn when the image is read
RANGES = (255.0, 1.0)
LEAST_BRIGHT = 150.0  # an image's largest value, from which it shows what a transform makes of it
LARGEST_CHANGED = 510.0  # a transform that leaves pixel units, or standardises them, makes less


class Store(Protocol):
    """What is asked of a store; `Transformed` is one."""

    folder: Path
    manifest: Manifest

    def __len__(self) -> int:
        """Count the images."""
        ...

    @property
    def steps(self) -> tuple[int, ...]:
        """The snapshots' numbers of steps, ascending."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class names in label order; () if unknown."""
        ...

    @property
    def skipped(self) -> tuple[Skipped, ...]:
        """Images of the data set that the store lacks."""
        ...

    @property
    def labels(self) -> Tensor:
        """Classes or other targets, (N, ...)."""
        ...

    @property
    def indices(self) -> Tensor:
        """int64 (N,): each image's position in the data set."""
        ...

    @property
    def keys(self) -> tuple[str, ...]:
        """Each image's name in the data set."""
        ...

    def images(self, step: int, positions: Sequence[int]) -> Tensor:
        """Read images of a snapshot, float32 (n, C, H, W)."""
        ...

    def shard_rows(self, shard: int) -> slice:
        """The rows of the store that a shard holds."""
        ...

    def targets(self, positions: Sequence[int]) -> list[int] | list[Tensor]:
        """Read what images have as labels."""
        ...


class Joined(Dataset[tuple[Any, Any]]):
    """A data set and the versions of its images; made by `Transformed.join`.

    Gives (image, target): first the originals in the data set's order, then the versions by number
    of steps, each in the data set's order. Random versions come from PyTorch's global generator,
    which a DataLoader seeds differently in each worker and each epoch, from its own `generator` or
    `torch.manual_seed`. It can be pickled to worker processes if the data set can.

    Args:
        pairs: the data set.
        store: of its versions.
        rows: int64 (N,), the row of the store for each image of the data set; -1 for none.
        steps: which versions; those that "random" draws from.
        random: one version of each image, drawn when it is read.
        replace: without originals of images that have versions.
        transform: as for `Transformed.join`.
        value_range: 255 or 1.
        proof: what was compared.

    Attributes:
        proof: what was compared to know which image is which, one line.
        class_names: in label order; () if unknown.
    """

    def __init__(
        self,
        pairs: Pairs,
        store: Store,
        rows: Tensor,
        *,
        steps: tuple[int, ...],
        random: bool,
        replace: bool,
        transform: Callable[..., Any] | None,
        value_range: float,
        proof: str,
    ) -> None:
        """List what there is at each position."""
        self.pairs, self.store, self.steps = pairs, store, steps
        self.transform, self.value_range, self.proof = transform, value_range, proof
        self.class_names = pairs.class_names or store.class_names
        self._rows = rows
        self._units_seen = transform is None or value_range != 255
        has_version = rows >= 0
        originals = (~has_version if replace else torch.ones_like(has_version)).nonzero()[:, 0]
        versions = has_version.nonzero()[:, 0]
        kinds = (RANDOM,) if random else steps
        self._items = torch.cat([originals, versions.repeat(len(kinds))])
        self._kinds = torch.cat(
            [
                torch.zeros(len(originals), dtype=torch.int64),
                torch.tensor(kinds).repeat_interleave(len(versions)),
            ]
        )

    def __len__(self) -> int:
        """Count originals and versions."""
        return len(self._items)

    def origin(self, position: int) -> tuple[int, int | None]:
        """Return which image is at a position.

        Args:
            position: 0 … len − 1.

        Returns:
            Its position in the data set, and its number of steps: 0 for an original, None for a
            version that is drawn when it is read.

        Raises:
            IndexError: a position is out of range.
        """
        kind = int(self._kinds[position])
        return int(self._items[position]), None if kind == RANDOM else kind

    def __getitem__(self, position: int) -> tuple[Any, Any]:
        """One image and its target."""
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: list[int]) -> list[tuple[Any, Any]]:
        """A batch of them, as a DataLoader asks for it."""
        count = len(self)
        for position in positions:
            if not -count <= position < count:
                raise IndexError(f"position {position}; there are {count:,} images")
        items = self._items[positions].tolist()
        kinds = [self._drawn(kind) for kind in self._kinds[positions].tolist()]
        versions: dict[int, Tensor] = {}
        for step in sorted({kind for kind in kinds if kind}):
            places = [place for place, kind in enumerate(kinds) if kind == step]
            rows = self._rows[[items[place] for place in places]].tolist()
            versions |= zip(places, self.store.images(step, rows), strict=True)
        return [
            self._finished(*self._pair(item, versions.get(place)))
            for place, item in enumerate(items)
        ]

    def _drawn(self, kind: int) -> int:
        if kind != RANDOM:
            return kind
        return self.steps[int(torch.randint(len(self.steps), ()))]

    def _pair(self, item: int, version: Tensor | None) -> tuple[Tensor, Any]:
        if version is not None:
            return version, self.pairs.target(item)
        image, target = self.pairs.pair(item, _size(self.store))
        return _fitting(self.store, self.pairs, item, image).float(), target

    def _finished(self, image: Tensor, target: Any) -> tuple[Any, Any]:
        if self.value_range == 1:
            image = image / 255
        if self.transform is None:
            return image, target
        if isinstance(target, Tensor) and target.ndim >= 2:
            changed, target = self.transform(image, target)
        else:
            changed = self.transform(image)
        if not self._units_seen:
            self._warn_of_units(image, changed)
        return changed, target

    def _warn_of_units(self, image: Tensor, changed: Any) -> None:
        """Warn, once, of a transform that makes pixel values several times larger.

        A standard deviation for images of 0 to 1 does, and images that are nearly black do not
        tell.
        """
        if not isinstance(changed, Tensor) or float(image.max()) < LEAST_BRIGHT:
            return
        self._units_seen = True
        if (largest := float(changed.abs().max())) > LARGEST_CHANGED:
            warnings.warn(
                f"transform makes values of {largest:.0f} from an image of 0 to "
                f"{float(image.max()):.0f}: it seems to be for images of 0 to 1, as a Normalize "
                "with a mean and std below 1 is. Pass value_range=1 to join",
                PixelRangeWarning,
                stacklevel=2,
            )


def join(
    store: Store,
    dataset: Any,
    *,
    versions: Versions,
    replace: bool,
    transform: Callable[..., Any] | None,
    value_range: float,
    check: Check,
) -> Joined:
    """Join a data set with a store; see `Transformed.join`.

    Args:
        store: open for reading.
        dataset: what it was made from.
        versions: which versions.
        replace: without the originals of images that have versions.
        transform: of every image.
        value_range: 255 or 1.
        check: "sample" or "all".
    """
    if value_range not in RANGES:
        raise ValueError(f"value_range={value_range!r}; accepted: 255 (pixel units) or 1 (0 to 1)")
    if check not in get_args(Check):
        raise ValueError(f"check={check!r}; accepted: {', '.join(get_args(Check))}")
    if transform is not None and not callable(transform):
        raise TypeError(f"transform must be callable, got {transform!r}")
    steps, random = _steps(store, versions)
    pairs = pairs_of(dataset)
    if not len(pairs):
        raise ValueError(f"{pairs.name} has no images")
    _require_same_classes(store, pairs)
    found = _Match(store, pairs)
    found.require_same_labels()
    proof = found.require_same_contents(check)
    return Joined(
        pairs,
        store,
        found.rows,
        steps=steps,
        random=random,
        replace=replace,
        transform=transform,
        value_range=value_range,
        proof=proof,
    )


def _steps(store: Store, versions: Versions) -> tuple[tuple[int, ...], bool]:
    """The versions asked for, and whether one of them is drawn."""
    if versions in ("all", "random"):
        return store.steps, versions == "random"
    wanted = versions if isinstance(versions, Sequence) else (versions,)
    steps = tuple(sorted(set(wanted))) if not isinstance(wanted, str) else ()
    if not steps or any(step not in store.steps for step in steps):
        accepted = ", ".join(map(str, store.steps))
        raise ValueError(
            f"versions={versions!r}; accepted: 'all', 'random', or of the store's steps {accepted}"
        )
    return steps, False


def _require_same_classes(store: Store, pairs: Pairs) -> None:
    names = store.class_names
    if names and pairs.class_names and names != pairs.class_names and not pairs.retargeted:
        places = (str(store.folder), pairs.name)
        raise ValueError(
            f"{class_differences(names, pairs.class_names, places)}. Join the data set that the "
            "store was made from"
        )


class _Match:
    """Which row of a store each image of a data set has, and the proof of it.

    Attributes:
        rows: int64 (N,); -1 for an image that the store skipped.
        how: how they were matched, in words.
    """

    def __init__(self, store: Store, pairs: Pairs) -> None:
        self.store, self.pairs = store, pairs
        self._base = pairs  # where images are read to be compared
        by_path = None if pairs.paths is None else self._rows_by_path(pairs.paths)
        if by_path is not None:
            self.rows, self.how = by_path, f"paths of {len(pairs):,} images"
        else:
            self.rows, self.how = self._rows_by_position()

    def _rows_by_path(self, paths: Sequence[str]) -> Tensor | None:
        """Match files with keys, which are their paths without what comes before the data set.

        None if no key is the end of a path: the store does not name files.
        """
        row_of: dict[str, int] = {key: row for row, key in enumerate(self.store.keys)}
        row_of |= {each.key: -1 for each in self.store.skipped}
        found: list[str | None] = [_key_of(path, row_of) for path in paths]
        if not any(found):
            return None
        if missing := [path for path, key in zip(paths, found, strict=True) if key is None]:
            raise ValueError(
                f"{self.store.folder} has no version of {missing[0]!r} and of {len(missing) - 1:,} "
                "other images of the data set: it was made from a part of it. Join that part "
                "(sign_ext.data.open_data cuts it as `sign-ext transform` did, "
                "torch.utils.data.Subset takes positions), or transform the whole"
            )
        keys = [key for key in found if key is not None]
        if len(set(keys)) != len(keys):
            ((twice, _),) = Counter(keys).most_common(1)
            both = [path for path, key in zip(paths, keys, strict=True) if key == twice]
            raise ValueError(
                f"{' and '.join(both[:2])} both end like {twice!r} of {self.store.folder}: join "
                "one folder at a time"
            )
        return torch.tensor([row_of[key] for key in keys])

    def _rows_by_position(self) -> tuple[Tensor, str]:
        """Match by the position in the data set that the store was made from."""
        store, pairs = self.store, self.pairs
        count = store.manifest.images
        row_at = torch.full((count,), -1, dtype=torch.int64)
        row_at[store.indices] = torch.arange(len(store))
        if len(pairs) == count:
            return row_at, f"positions of {count:,} images"
        if len(pairs.base) == count:
            self._base = pairs.base
            return row_at[pairs.positions()], f"positions of {len(pairs):,} of {count:,} images"
        if len(pairs) == len(store):  # those that were skipped were removed since
            return torch.arange(len(store)), f"the order of {len(store):,} images"
        data = store.manifest.recipe.get("data", {})
        raise ValueError(
            f"{store.folder} was made from {count:,} images ({data.get('name', 'unknown data')}), "
            f"and {pairs.name} has {len(pairs):,}. Join the data set, split and size that it was "
            "made from"
        )

    def require_same_labels(self) -> None:
        """Raise ValueError where the data set lists another class than the store has."""
        classes, store = self.pairs.classes, self.store
        if classes is None or store.manifest.targets is not None:
            return
        there = (self.rows >= 0).nonzero()[:, 0]
        stored = store.labels[self.rows[there]]
        if len(wrong := (stored != classes[there]).nonzero()):
            item = int(there[int(wrong[0])])
            raise ValueError(
                f"{self.pairs.key(item)} has the label {int(classes[item])} in the data set, and "
                f"{int(store.labels[self.rows[item]])} in {store.folder} ({len(wrong):,} of "
                f"{len(there):,} differ): the store was made from other images, or in another order"
            )
        self.how += " and their labels"

    def require_same_contents(self, check: Check) -> str:
        """Raise ValueError where a shard was made from other images; return the whole proof.

        Args:
            check: as for `Transformed.join`.
        """
        store = self.store
        if self._base is self.pairs:
            rows = self.rows
        else:  # a part, matched by position: the whole can be read
            rows = torch.full((len(self._base),), -1, dtype=torch.int64)
            rows[store.indices] = torch.arange(len(store))
        item_of = {row: item for item, row in enumerate(rows.tolist()) if row >= 0}
        shards = store.manifest.shards
        whole = [
            shard
            for shard in range(len(shards))
            if shards[shard].images
            and all(row in item_of for row in range(*store.shard_rows(shard).indices(len(store))))
        ]
        by_path = self.how.startswith("paths")
        if not whole and by_path:
            return f"{self.how}; the contents of no shard, since the data set has none whole"
        if any(shards[shard].originals is None for shard in whole):
            raise ValueError(
                f"{store.folder} does not record which images it was made from: "
                "save_transformed(…, originals=images) does"
            )
        chosen = whole
        if check == "sample":
            spread = np.linspace(0, len(whole) - 1, SHARDS_CHECKED)
            chosen = [whole[each] for each in np.unique(spread.round().astype(int))]
        for shard in chosen:
            self._require_same_shard(shard, item_of)
        return f"{self.how}; the contents of {len(chosen):,} of {len(shards):,} shards"

    def _require_same_shard(self, shard: int, item_of: Mapping[int, int]) -> None:
        store, base = self.store, self._base
        rows = list(range(*store.shard_rows(shard).indices(len(store))))
        items = [item_of[row] for row in rows]
        size = _size(store)
        for item in items[:REPEATED]:
            require_repeatable(base, item, size)
        read = [base.pair(item, size) for item in items]
        images = [
            _fitting(store, base, item, image) for item, (image, _) in zip(items, read, strict=True)
        ]
        labels = store.labels[rows]
        if base.classes is None and not base.retargeted:
            self._require_same_targets(items, [target for _, target in read], labels)
        pixels = stack_pixels(images)
        if fingerprint_of(pixels, labels) != store.manifest.shards[shard].originals:
            raise ValueError(
                f"{store.folder}, shard {shard} was made from other images than "
                f"{base.key(items[0])} … {base.key(items[-1])} of the data set"
                f"{self._worst(rows, items, pixels)}. {self._other_size(items[0])}{self._cause()}"
            )

    def _require_same_targets(self, items: list[int], targets: list[Any], stored: Tensor) -> None:
        """Raise ValueError where a target that a store can hold is not the stored one."""
        for item, target, wanted in zip(items, targets, stored, strict=True):
            found = stored_target(target, self._base.key(item))
            if is_class(wanted) and not is_class(found):
                return  # the data set gives its classes in another form
            if found.shape != wanted.shape or not torch.equal(found, wanted.to(found.dtype)):
                raise ValueError(
                    f"{self._base.key(item)} has another target in the data set than in "
                    f"{self.store.folder}: {_brief(found)} and {_brief(wanted)}"
                )

    def _worst(self, rows: list[int], items: list[int], pixels: Tensor) -> str:
        """Name an image that is too far from its version, if it is known how far they moved."""
        step = self.store.steps[0]
        shard = next(
            i
            for i in range(len(self.store.manifest.shards))
            if self.store.shard_rows(i).start <= rows[0] < self.store.shard_rows(i).stop
        )
        change = self.store.manifest.shards[shard].change.get(step)
        if change is None or not change.largest:
            return ""
        moved = (self.store.images(step, rows) - pixels.float()).abs().flatten(1).amax(1)
        worst = int(moved.argmax())
        if float(moved[worst]) <= 2 * change.largest:
            return ""
        return (
            f": {self._base.key(items[worst])} is up to {float(moved[worst]):.0f} grey levels from "
            f"its version of {step} steps, which moved images by {change.largest:.3g} at most"
        )

    def _other_size(self, item: int) -> str:
        """Name the size that the data set gives its images, if it is another than the store's."""
        if self._base.paths is not None and not self._transforms():
            return ""  # files may have any size
        stored, here = self.store.manifest.image_shape, tuple(self._base.image(item, None).shape)
        if stored == here:
            return ""
        return f"Its images have another size: {sizes_in_words(stored, here)}. "

    def _transforms(self) -> bool:
        return getattr(self._base.dataset, "transform", None) is not None

    def _cause(self) -> str:
        if self._transforms():
            return (
                "The data set has a transform of its own, which changes its images: pass it to "
                "join(transform=…) instead, and the data set without it. It gets tensors in pixel "
                "units, 0 to 255, or 0 to 1 with value_range=1, as ToTensor would give them"
            )
        return "Join the data set that the store was made from, in its order"


def _key_of(path: str, keys: Mapping[str, int]) -> str | None:
    """The longest end of a path that is a key."""
    parts = PurePosixPath(path).parts
    ends = ("/".join(parts[start:]) for start in range(len(parts)))
    return next((end for end in ends if end in keys), None)


def _size(store: Store) -> int | None:
    """The size that originals are resized to; None where images of the store are not square."""
    _, height, width = store.manifest.image_shape
    return height if height == width else None


def _fitting(store: Store, pairs: Pairs, item: int, image: Tensor) -> Tensor:
    """Return an original in the shape of the store's images, or raise ValueError."""
    if tuple(image.shape) != store.manifest.image_shape:
        raise ValueError(
            f"{pairs.key(item)} is {tuple(image.shape)}, and the images of {store.folder} are "
            f"{store.manifest.image_shape}: give the data set's images that shape"
        )
    return image


def _brief(target: Tensor) -> str:
    return str(target.item()) if target.ndim == 0 else f"{target.dtype} {tuple(target.shape)}"
