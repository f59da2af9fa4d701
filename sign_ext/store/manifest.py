"""A store's manifest and the names of its files.

STORE/
  manifest.json               what the images are, how they were made, the list of shards
  shard-000000.safetensors    images 0 … N−1 at every snapshot, labels, keys
  shard-000001.safetensors    …
  shard-000001.json           a shard's record, until the manifest lists it
  .store.lock                 held while a run writes
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from sign_ext.change import Change
from sign_ext.data.source import TARGET_DTYPES
from sign_ext.errors import StoreError
from sign_ext.files import json_text, read_json, require_schema, write_whole
from sign_ext.formatting import counted

FORMAT = "sign_ext.store"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
LOCK = ".store.lock"

# Everything that determines a store's images, as JSON holds it; "recipe" in the manifest.
Provenance = dict[str, Any]

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

# Default size of a shard: large enough to make the cost of opening files negligible, small enough
# that losing one to a kill costs little.
SHARD_BYTES = 64 << 20

# A killed writer leaves what it wrote under a temporary name: ours, or safetensors' own.
_TEMPORARY = r"(shard-\d{6,}\.(safetensors|json)|manifest\.json)\..+\.tmp|\.tmp[A-Za-z0-9]{6}"
_TEMPORARY_FILE = re.compile(_TEMPORARY)
_STORE_FILE = re.compile(rf"shard-\d{{6,}}\.(safetensors|json)|{_TEMPORARY}")


def is_store_file(name: str) -> bool:
    """Return whether a name is that of a shard, a record, or a killed writer's temporary file.

    Args:
        name: without folders.

    Example:
        >>> is_store_file("shard-000012.safetensors"), is_store_file("notes.txt")
        (True, False)
    """
    return _STORE_FILE.fullmatch(name) is not None


def is_temporary_file(name: str) -> bool:
    """Return whether a name is that of a killed writer's temporary file.

    Args:
        name: without folders.

    Example:
        >>> is_temporary_file("shard-000012.json.31.tmp"), is_temporary_file(".tmpA1b2C3")
        (True, True)
        >>> is_temporary_file("notes.tmp")
        False
    """
    return _TEMPORARY_FILE.fullmatch(name) is not None


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
        image_bytes: of one image with all its snapshots.
        images: in the data set; an upper limit.

    Example:
        >>> default_shard_size(2 * 3 * 32 * 32 * 4, 50_000)
        2730
    """
    return max(1, min(images, SHARD_BYTES // max(image_bytes, 1)))


def shard_range(index: int, shard_size: int, images: int) -> range:
    """Return the positions in the data set of a shard's images.

    Args:
        index: of the shard.
        shard_size: images per shard.
        images: in the data set.

    Example:
        >>> shard_range(1, 4, 6)
        range(4, 6)
    """
    return range(index * shard_size, min((index + 1) * shard_size, images))


def shard_count(shard_size: int, images: int) -> int:
    """Return the number of shards of a data set.

    Args:
        shard_size: images per shard.
        images: in the data set.

    Example:
        >>> shard_count(4, 6)
        2
    """
    return -(-images // shard_size)


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read.

    Attributes:
        index: its position in the data set.
        key: its name in the data set.
        why: the reader's error message.
    """

    index: int
    key: str
    why: str


@dataclass(frozen=True)
class ShardEntry:
    """The manifest's entry for a shard.

    Attributes:
        images: number of images in it.
        bytes: size of the file.
        sha256: of the file.
        originals: `sign_ext.data.fingerprint` of the images it was made from, or None.
        skipped: images that could not be read.
        change: number of steps → how far SIGN moved the images; {} if unknown.
    """

    images: int
    bytes: int
    sha256: str
    originals: str | None = None
    skipped: tuple[Skipped, ...] = ()
    change: dict[int, Change] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, content: Any, where: str) -> ShardEntry:
        """Rebuild an entry from the output of `asdict`, parsed from JSON.

        Args:
            content: of a record.
            where: the file; begins the error message.

        Raises:
            ValueError: it is anything else; the message names the field.
        """
        from sign_ext.store.schema import RecordPart

        require_schema(RecordPart, content, where)
        return cls._from_checked(content, where)

    @classmethod
    def _from_checked(cls, content: dict[str, Any], where: str) -> ShardEntry:
        skipped = tuple(Skipped(**each) for each in content["skipped"])
        change = {int(step): Change(**each) for step, each in content["change"].items()}
        try:
            return cls(**{**content, "skipped": skipped, "change": change})
        except TypeError as error:  # unknown fields
            raise ValueError(f"{where}: {error}") from error


@dataclass(frozen=True)
class TargetKind:
    """What each image has in place of one class: several classes, numbers, a mask.

    Attributes:
        dtype: a name of `sign_ext.data.source.TARGET_DTYPES`.
        shape: of one image's target; () is a single number.
    """

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, targets: torch.Tensor) -> TargetKind | None:
        """Return the kind of some targets; None for classes, int64 (N,).

        Args:
            targets: (N, ...).

        Raises:
            TypeError: a dtype that a store does not hold; integers (N,) other than int64, which
                are classes of another dtype.

        Example:
            >>> TargetKind.of(torch.eye(3)), TargetKind.of(torch.tensor([2, 0]))
            (TargetKind(dtype='float32', shape=(3,)), None)
        """
        dtype, shape = str(targets.dtype).removeprefix("torch."), tuple(targets.shape[1:])
        if not shape and targets.dtype == torch.int64:
            return None
        if dtype not in TARGET_DTYPES or (not shape and not targets.is_floating_point()):
            raise TypeError(
                f"labels has dtype {targets.dtype} and shape {tuple(targets.shape)}; accepted: "
                "classes as torch.int64 (N,), numbers as torch.float32 (N,), or (N, …) of "
                f"{', '.join(TARGET_DTYPES)}."
            )
        return cls(dtype, shape)


@dataclass(frozen=True)
class Manifest:
    """What a store holds and how it was made.

    Attributes:
        recipe: everything that determines the images; equal recipes give equal bytes.
        images: number in the data set; the store lacks those that were skipped.
        shard_size: positions of the data set per shard.
        snapshots: numbers of steps, ascending.
        dtype: of the stored images: "float32", "float16" or "bfloat16".
        image_shape: (C, H, W).
        class_names: in label order; () if unknown.
        choices: the engine's measured choice of algorithms, used by every rank and rerun.
        shards: entries in order; empty until the store is complete.
        targets: what images have in place of one class each; None where they have that.
    """

    recipe: Provenance
    images: int
    shard_size: int
    snapshots: tuple[int, ...]
    dtype: str
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    choices: dict[str, Any] = field(default_factory=dict)
    shards: tuple[ShardEntry, ...] = ()
    targets: TargetKind | None = None

    @property
    def complete(self) -> bool:
        """Whether every shard is listed."""
        return len(self.shards) == self.shard_count

    @property
    def shard_count(self) -> int:
        """The number of shards of the data set."""
        return shard_count(self.shard_size, self.images)

    def write(self, folder: Path) -> None:
        """Write manifest.json, atomically.

        Args:
            folder: the store.
        """
        body = asdict(self)
        shards = [
            {"file": shard_file(index), **entry} for index, entry in enumerate(body.pop("shards"))
        ]
        if self.targets is None:
            del body["targets"]  # as manifests were before there were any
        head = {"format": FORMAT, "format_version": FORMAT_VERSION, "complete": self.complete}
        write_whole(folder / MANIFEST, _as_text({**head, **body}, shards))


def read_manifest(folder: Path) -> Manifest:
    """Read a store's manifest.

    Args:
        folder: the store.

    Raises:
        FileNotFoundError: there is none.
        ValueError: its format or version is another, or it was damaged or edited; the message
            names the field.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is missing: {folder} is not a store of transformed images. Make one with "
            "`sign-ext transform`, or give the folder it wrote."
        )
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f"{path} is not the manifest of a store (format {FORMAT!r}).")
    if content.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {content.get('format_version')!r}; accepted: "
            f"{FORMAT_VERSION}. Use the version of sign_ext that wrote it, or transform again."
        )
    try:
        return _parse(content, str(path))
    except ValueError as error:
        raise ValueError(f"{error}. It was damaged or edited: transform again.") from error


def _parse(content: dict[str, Any], where: str) -> Manifest:
    from sign_ext.store.schema import ManifestPart

    require_schema(ManifestPart, content, where)
    for index, shard in enumerate(content["shards"]):
        # Never a name from the file: "../x" would be read, and removed.
        if (name := shard.pop("file")) != shard_file(index):
            raise ValueError(
                f"{where}: shards[{index}].file is {name!r}; accepted: {shard_file(index)!r}"
            )
    manifest = Manifest(
        recipe=content["recipe"],
        images=content["images"],
        shard_size=content["shard_size"],
        snapshots=tuple(content["snapshots"]),
        dtype=content["dtype"],
        image_shape=tuple(content["image_shape"]),
        class_names=tuple(content["class_names"]),
        choices=content["choices"],
        shards=tuple(
            ShardEntry._from_checked(shard, f"{where}: shards[{index}]")
            for index, shard in enumerate(content["shards"])
        ),
        targets=_target_kind(content.get("targets")),
    )
    if list(manifest.snapshots) != sorted(set(manifest.snapshots)):
        raise ValueError(
            f"{where}: snapshots is {content['snapshots']}; accepted: ascending, none twice"
        )
    listed = len(manifest.shards)
    if content["complete"] != manifest.complete or listed not in (0, manifest.shard_count):
        raise ValueError(
            f"{where}: complete is {str(content['complete']).lower()}, but shards lists {listed:,} "
            f"of the {manifest.shard_count:,} that images and shard_size make"
        )
    for index, entry in enumerate(manifest.shards):
        if fault := entry_fault(manifest, index, entry):
            raise ValueError(f"{where}: shards[{index}].{fault}")
    return manifest


def _target_kind(content: dict[str, Any] | None) -> TargetKind | None:
    return None if content is None else TargetKind(content["dtype"], tuple(content["shape"]))


def entry_fault(manifest: Manifest, index: int, entry: ShardEntry) -> str | None:
    """Return in what a shard's entry contradicts the manifest, beginning with the field, or None.

    Args:
        manifest: of the store.
        index: of the shard.
        entry: of the shard.
    """
    positions = shard_range(index, manifest.shard_size, manifest.images)
    if len(positions) == 0:
        return (
            f"images is {entry.images}, but the store has "
            f"{counted(manifest.shard_count, 'shard')} only"
        )
    left_out = [each.index for each in entry.skipped]
    if any(each not in positions for each in left_out) or len(set(left_out)) != len(left_out):
        return (
            f"skipped has the indices {left_out[:8]}; accepted: {positions.start} to "
            f"{positions.stop - 1}, none twice"
        )
    if entry.images + len(left_out) != len(positions):
        return (
            f"images is {entry.images:,}, and skipped lists {len(left_out):,}; accepted: "
            f"{len(positions):,} together"
        )
    values = entry.images * math.prod(manifest.image_shape) * len(manifest.snapshots)
    if entry.bytes < values * DTYPES[manifest.dtype].itemsize:
        return (
            f"bytes is {entry.bytes:,}, less than {counted(entry.images, 'image')} would take: "
            f"image_shape is {list(manifest.image_shape)}, snapshots is {list(manifest.snapshots)}"
        )
    if unknown := [step for step in entry.change if step not in manifest.snapshots]:
        return f"change has K = {unknown[0]}; accepted: {list(manifest.snapshots)}"
    return None


def _as_text(head: dict[str, Any], shards: Iterable[dict[str, Any]]) -> str:
    """Write JSON with one line per shard, so that people can read and diff a long manifest."""
    text = json_text(head, indent=2, allow_nan=False)
    rows = ",\n    ".join(json_text(shard) for shard in shards)
    listed = f"[\n    {rows}\n  ]" if rows else "[]"
    return f'{text[:-2]},\n  "shards": {listed}\n}}\n'


def as_json(provenance: Provenance) -> Provenance:
    """Convert to what a manifest gives back: tuples become lists, keys become strings.

    Args:
        provenance: JSON-able settings.

    Raises:
        TypeError: JSON cannot hold them.
    """
    try:
        content: Provenance = json.loads(json.dumps(provenance, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"the recipe cannot be written as JSON: {error}.") from error
    return content


_ABSENT = object()

# Parts of a recipe that are made of several values, as the command line calls them.
NAMES_OF_PARTS = {
    "calibration": "calibration (--step-size auto)",
    "checkpoint": "checkpoint (--checkpoint)",
    "model": "model (--model)",
}


def differences(stored: Any, current: Any, name: str = "") -> list[str]:
    """List the differences between two nested dicts, one line each.

    Args:
        stored: of the store.
        current: of this run.
        name: of the part that is compared, for the recursion.

    Example:
        >>> differences({"steps": 50, "clamp": None}, {"steps": 100, "clamp": None})
        ['steps: 50 in the store, 100 now']
    """
    if isinstance(stored, dict) and isinstance(current, dict):
        prefix = f"{name}." if name else ""
        return [
            line
            for key in sorted({*stored, *current})
            for line in differences(
                stored.get(key, _ABSENT), current.get(key, _ABSENT), prefix + key
            )
        ]
    if stored == current:
        return []
    name = NAMES_OF_PARTS.get(name, name)
    if {dict} >= {type(each) for each in (stored, current) if each is not _ABSENT}:
        there, here = ("nothing" if each is _ABSENT else "recorded" for each in (stored, current))
        return [f"{name}: {there} in the store, {here} now"]
    return [f"{name}: {_short(stored)} in the store, {_short(current)} now"]


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:28] + " … " + text[-28:]


def sizes_in_words(stored: tuple[int, ...], here: tuple[int, ...]) -> str:
    """Say in what two image shapes (C, H, W) differ, height × width first.

    Args:
        stored: of the store's images.
        here: of the data set's.

    Example:
        >>> sizes_in_words((3, 64, 64), (3, 32, 32)), sizes_in_words((3, 8, 8), (1, 8, 8))
        ('64×64 in the store, 32×32 here', '3 channels in the store, 1 here')
    """
    if stored[1:] != here[1:]:
        there, now = ("×".join(map(str, shape[1:])) for shape in (stored, here))
        return f"{there} in the store, {now} here"
    return f"{counted(stored[0], 'channel')} in the store, {here[0]} here"


def require_complete(folder: Path, manifest: Manifest) -> None:
    """Raise unless a store is finished.

    Raises:
        StoreError: shards are missing.
    """
    if not manifest.complete:
        made = len(files_by_shard(folder, manifest, ".safetensors"))
        raise StoreError(
            f"{folder} is unfinished: it has {made:,} of {counted(manifest.shard_count, 'shard')}. "
            "Run its `sign-ext transform` command again to make the missing ones"
        )


def files_by_shard(folder: Path, manifest: Manifest, suffix: str) -> list[int]:
    """List the shards that have a file in the folder, in order.

    Args:
        folder: the store.
        manifest: its manifest; its number of images is not to be trusted, so nothing counts to it.
        suffix: ".safetensors" for the shards themselves, ".json" for their records.
    """
    found = []
    for name in os.listdir(folder):
        digits = name.removeprefix("shard-").removesuffix(suffix)
        if len(digits) <= 18 and digits.isascii() and digits.isdigit():
            index = int(digits)
            if index < manifest.shard_count and name == f"{shard_file(index)[:-12]}{suffix}":
                found.append(index)
    return sorted(found)
