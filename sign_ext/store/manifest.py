"""A store's manifest: what its images are, how they were made, and which shards hold them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from sign_ext.change import Change
from sign_ext.errors import StoreError
from sign_ext.files import write_whole

# Names and formats of a store's files: a manifest, and shards that hold a range of images each.
#
# STORE/
# manifest.json               what the images are, how they were made, the list of shards
# shard-000000.safetensors    images 0 … N−1 at every snapshot, labels, keys
# shard-000001.safetensors    …
# shard-000001.json           a shard's record, until the manifest lists it
# .store.lock                 held while a run writes


FORMAT = "sign_ext.store"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LOCK = ".store.lock"

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# One shard's images where nobody chose: large enough that opening files costs nothing, small
# enough to lose without regret.
SHARD_BYTES = 64 << 20

_OURS = re.compile(r"shard-\d{6,}\.(safetensors|json)(\..+\.tmp)?|manifest\.json\..+\.tmp")


def is_ours(name: str) -> bool:
    """Tell whether a file name is of a shard, a record or what a killed writer left of one.

    Args:
        name: without folders.

    Example:
        >>> is_ours("shard-000012.safetensors"), is_ours("notes.txt")
        (True, False)
    """
    return _OURS.fullmatch(name) is not None


def shard_file(index: int) -> str:
    """Return the file name of a shard.

    Args:
        index: 0 or more.

    Example:
        >>> shard_file(12)
        'shard-000012.safetensors'
    """
    return f"shard-{index:06d}.safetensors"


def record_file(index: int) -> str:
    """Return the file name of a shard's record.

    Args:
        index: 0 or more.
    """
    return f"shard-{index:06d}.json"


def tensor_name(step: int) -> str:
    """Return the name of a snapshot's images in a shard.

    Args:
        step: number of steps, 1 or more.

    Example:
        >>> tensor_name(50)
        'images_000050'
    """
    return f"images_{step:06d}"


def default_shard_size(image_bytes: int, images: int) -> int:
    """Return how many images make a shard of about `SHARD_BYTES`.

    Args:
        image_bytes: what one image takes, all its snapshots together.
        images: in the data set; a shard is never larger.

    Example:
        >>> default_shard_size(2 * 3 * 32 * 32 * 4, 50_000)
        2730
    """
    return max(1, min(images, SHARD_BYTES // max(image_bytes, 1)))


def shard_range(index: int, shard_size: int, images: int) -> range:
    """Return the positions in the data set that a shard is made from.

    Args:
        index: of the shard.
        shard_size: images a shard.
        images: in the data set.

    Example:
        >>> shard_range(1, 4, 6)
        range(4, 6)
    """
    return range(index * shard_size, min((index + 1) * shard_size, images))


def shard_count(shard_size: int, images: int) -> int:
    """Return how many shards a data set makes.

    Args:
        shard_size: images a shard.
        images: in the data set.

    Example:
        >>> shard_count(4, 6)
        2
    """
    return -(-images // shard_size)


Recipe = dict[str, Any]

_ABSENT = object()


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read.

    Attributes:
        index: its position in the data set.
        key: what the data set calls it.
        why: the reader's words.
    """

    index: int
    key: str
    why: str


@dataclass(frozen=True)
class ShardEntry:
    """What the manifest says of a shard.

    Attributes:
        images: how many it holds.
        bytes: the file's size.
        sha256: the file's SHA-256.
        originals: `sign_ext.data.fingerprint` of the images that it was made from, or None.
        skipped: images that could not be read.
        change: number of steps → how far images were moved; {} where unknown.
    """

    images: int
    bytes: int
    sha256: str
    originals: str | None = None
    skipped: tuple[Skipped, ...] = ()
    change: dict[int, Change] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Any) -> ShardEntry:
        """Read what `asdict` made of one, refusing anything else."""
        skipped = tuple(Skipped(**each) for each in content["skipped"])
        change = {int(step): Change(**each) for step, each in content["change"].items()}
        entry = cls(**{**content, "skipped": skipped, "change": change})
        whole = isinstance(entry.images, int) and isinstance(entry.bytes, int)
        if not whole or not re.fullmatch(r"[0-9a-f]{64}", str(entry.sha256)):
            raise TypeError("a shard's entry has no proper images, bytes and sha256")
        return entry


@dataclass(frozen=True)
class Manifest:
    """What is known of a store.

    Attributes:
        recipe: all that determines the images, as JSON has it; equal recipes make equal bytes.
        images: in the data set; the store has as many but those skipped.
        shard_size: images a shard, as positions in the data set.
        snapshots: numbers of steps, ascending.
        dtype: of the stored images: "float32", "float16" or "bfloat16".
        image_shape: (C, H, W).
        class_names: in label order; () where unknown.
        choices: the engine's measured algorithm choices, obeyed by every rank and rerun.
        shards: entries in order; empty until the store is complete.
    """

    recipe: Recipe
    images: int
    shard_size: int
    snapshots: tuple[int, ...]
    dtype: str
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    shards: tuple[ShardEntry, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every shard is listed."""
        return len(self.shards) == self.shard_count

    @property
    def shard_count(self) -> int:
        """How many shards the data set makes."""
        return shard_count(self.shard_size, self.images)

    def unfinished(self) -> Manifest:
        """The same before any shard was listed."""
        return replace(self, shards=())

    def write(self, folder: Path) -> None:
        """Put it in place, whole.

        Args:
            folder: the store.
        """
        body = asdict(self)
        shards = [
            {"file": shard_file(index), **entry} for index, entry in enumerate(body.pop("shards"))
        ]
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "complete": self.complete}
        write_whole(folder / MANIFEST, _lines({**head, **body}, shards))


def read_manifest(folder: Path) -> Manifest:
    """Read a store's manifest.

    Args:
        folder: the store.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of another format or version, or was changed.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is not a store of transformed images. Make one with "
            "`sign-ext transform`, or give the folder that it wrote."
        )
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not the manifest of a store (format {FORMAT!r}).")
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content.get('format_version')!r}; accepted: "
            f"{FORMAT_VERSION}. Use the version of sign_ext that wrote it, or transform again."
        )
    try:
        return _parsed(content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} was changed ({error!r}). Transform again.") from error


def _parsed(content: dict[str, Any]) -> Manifest:
    shards = content["shards"]
    for index, shard in enumerate(shards):
        if shard.pop("file") != shard_file(index):
            raise ValueError(f"shard {index} has another file's name")
    manifest = Manifest(
        recipe=dict(content["recipe"]),
        images=int(content["images"]),
        shard_size=int(content["shard_size"]),
        snapshots=tuple(int(k) for k in content["snapshots"]),
        dtype=content["dtype"],
        image_shape=tuple(int(size) for size in content["image_shape"]),
        class_names=tuple(str(name) for name in content["class_names"]),
        choices=dict(content["choices"]),
        shards=tuple(ShardEntry.from_dict(shard) for shard in shards),
    )
    if manifest.dtype not in DTYPES or manifest.shard_size < 1 or not manifest.snapshots:
        raise ValueError("dtype, shard_size or snapshots cannot be")
    if manifest.complete != content["complete"]:
        raise ValueError(f"it lists {len(shards)} of {manifest.shard_count} shards")
    return manifest


def _lines(head: dict[str, Any], shards: Iterable[dict[str, Any]]) -> str:
    """JSON with one line a shard, so that a manifest of a million is still read and compared."""
    text = json.dumps(head, indent=2, ensure_ascii=False, allow_nan=False)
    rows = ",\n    ".join(json.dumps(shard, ensure_ascii=False) for shard in shards)
    listed = f"[\n    {rows}\n  ]" if rows else "[]"
    return f'{text[:-2]},\n  "shards": {listed}\n}}\n'


def as_json(recipe: Recipe) -> Recipe:
    """A recipe as it comes back from a manifest: tuples as lists, keys as strings.

    Args:
        recipe: JSON-able settings.

    Raises:
        TypeError: JSON cannot hold them.
    """
    try:
        content: Recipe = json.loads(json.dumps(recipe, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"the recipe cannot be written as JSON: {error}.") from error
    return content


def differences(there: Any, now: Any, name: str = "") -> list[str]:
    """What differs between two recipes, a line each: "settings.steps: 50 in the store, 100 now".

    Args:
        there: of the store.
        now: of this run.
        name: of the part that is compared.

    Example:
        >>> differences({"steps": 50, "clamp": None}, {"steps": 100, "clamp": None})
        ['steps: 50 in the store, 100 now']
    """
    if isinstance(there, dict) and isinstance(now, dict):
        prefix = f"{name}." if name else ""
        return [
            line
            for key in sorted({*there, *now})
            for line in differences(there.get(key, _ABSENT), now.get(key, _ABSENT), prefix + key)
        ]
    if there == now:
        return []
    return [f"{name}: {_short(there)} in the store, {_short(now)} now"]


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:28] + " … " + text[-28:]


def require_complete(folder: Path, manifest: Manifest) -> None:
    """Refuse a store that is not finished.

    Raises:
        StoreError: shards are missing.
    """
    if not manifest.complete:
        there = sum((folder / shard_file(i)).is_file() for i in range(manifest.shard_count))
        raise StoreError(
            f"{folder} is unfinished: {there} of {manifest.shard_count} shards are there. Run the "
            "`sign-ext transform` command that began it again; it does what is missing"
        )
