"""Export: a store as files that anyone can open, written whole or not at all, and resumable.

The files are written into OUT.unfinished, part by part, each with a record of what it lost. When
all of them are there, the folder is renamed to OUT. A run that was stopped continues from the
records of its parts.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sign_ext.files import read_json, sha256_of, write_json
from sign_ext.formatting import listed
from sign_ext.progress import Progress, reporting
from sign_ext.store.coordination import exclusive_lock
from sign_ext.store.export_formats import (
    CARD,
    CLASSES,
    CLASSES_FILE,
    FORMATS,
    INDEX,
    LABELS,
    TARGETS,
    Format,
    Rows,
    write_array,
    write_card,
    write_classes,
    write_index,
    write_parquet,
    write_pictures,
    write_tar,
)
from sign_ext.store.export_loss import Loss, total
from sign_ext.store.export_names import NAMINGS, Naming, class_folders, image_names, tar_name
from sign_ext.store.manifest import MANIFEST
from sign_ext.store.reader import Transformed, load_transformed

FORMAT = "sign_ext.export"
RESULT = "export.json"
RECORDS = ".records"
UNFINISHED, REPLACED = ".unfinished", ".replaced"
COLORS = (1, 3)  # channels of a picture


@dataclass(frozen=True)
class Export:
    """What an export wrote.

    Attributes:
        out: the folder.
        to: the format.
        images: how many, of each K.
        files: how many hold images.
        bytes: of these files.
        loss: K → what clipping and rounding lost; {} for npy, which loses nothing.
        made: parts written by this run; the others existed.
        parts: in all.
    """

    out: Path
    to: str
    images: int
    files: int
    bytes: int
    loss: dict[int, Loss]
    made: int
    parts: int

    def to_dict(self) -> dict[str, Any]:
        """The same as values for JSON, with the rms of what was lost."""
        loss = {
            str(step): {
                "values": each.values,
                "below": each.below,
                "above": each.above,
                "clipped_share": each.clipped_share,
                "clipping_rms": each.clipping_rms,
                "rounding_rms": each.rounding_rms,
            }
            for step, each in self.loss.items()
        }
        return {**vars(self), "out": str(self.out), "loss": loss}


@dataclass(frozen=True)
class _Plan:
    """What an export writes: everything that determines its files."""

    store: Transformed
    to: Format
    steps: tuple[int, ...]
    naming: Naming
    names: tuple[str, ...]
    manifest: str

    def description(self) -> dict[str, Any]:
        """What must be the same to continue."""
        return {
            "format": FORMAT,
            "to": self.to,
            "snapshots": list(self.steps),
            "names": self.naming,
            "manifest_sha256": self.manifest,
        }

    def parts(self) -> list[_Part]:
        """What is written at a time: the images of a shard at a K, or all of a K for npy."""
        shards = len(self.store.manifest.shards)
        numbers = range(1 if self.to == "npy" else shards)
        return [_Part(step, number) for step in self.steps for number in numbers]

    def rows(self, step: int, rows: slice, pixels: bool = True) -> Rows:
        """Some images of a K, or only what is known about them."""
        store = self.store
        positions = range(*rows.indices(len(store)))
        found = store.targets(positions) if positions else []
        classes = store.manifest.targets is None
        return Rows(
            step,
            store.images(step, positions if pixels else []),
            self.names[rows],
            store.keys[rows],
            store.indices[rows].tolist(),
            [int(each) for each in found] if classes else None,
            None if classes else store.labels[rows],
            store.class_names,
        )


@dataclass(frozen=True)
class _Part:
    step: int
    number: int

    @property
    def record(self) -> str:
        return f"{RECORDS}/K{self.step:06d}-{self.number:06d}.json"


@dataclass(frozen=True)
class _Record:
    """What a part wrote: its files with their bytes, and the loss."""

    files: dict[str, int]
    loss: Loss = field(default_factory=Loss)


def export_store(
    store: str | Path,
    out: str | Path,
    to: Format = "png",
    *,
    snapshots: tuple[int, ...] | None = None,
    naming: Naming = "name",
    overwrite: bool = False,
    progress: Progress = False,
) -> Export:
    """Write the images of a store as files that anyone can open, with their names and labels.

    Except in npy, values are clipped to 0–255 and rounded to the nearest whole number; what that
    loses is counted.

    Args:
        store: the folder of a complete store.
        out: a folder, which must not exist, or be empty, or hold the same export.
        to: "png" and "webp" (lossless) write OUT/K050/CLASS/NAME.png; "npy" OUT/K050.npy, float32
            (N, C, H, W) unclipped; "hf" Parquet files that `datasets.load_dataset(OUT)` opens;
            "webdataset" tars, OUT/K050/000000.tar.
        snapshots: which K; None takes all of the store.
        naming: "name" calls an image as its file is called, "path" by its whole key, "position" by
            its number in the store.
        overwrite: replace an earlier export of another kind in `out`.
        progress: True for a bar, or a function of (images × K done, total).

    Returns:
        What was written, and what it lost.

    Raises:
        ValueError: images without a picture, names that collide or escape the folder, or an
            argument that is not accepted; nothing has been written.
        FileExistsError: `out` holds something else.
        StoreError: the store is unfinished or damaged, or another run writes `out`.

    Example:
        >>> import tempfile
        >>> import torch
        >>> from sign_ext.store import export_store, save_transformed
        >>> images = {50: torch.tensor([-3.0, 0.25, 255.0, 7.0]).expand(2, 3, 1, 4)}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = save_transformed(f"{folder}/store", images, torch.tensor([0, 1]), recipe={})
        ...     done = export_store(f"{folder}/store", f"{folder}/png")
        >>> done.files, done.loss[50].below, round(done.loss[50].rounding_rms, 3)
        (2, 6, 0.125)
    """
    out = Path(out)
    plan = _plan(load_transformed(store), Path(store), to, snapshots, naming)
    if (found := _existing(out, plan, overwrite)) is not None:
        return found
    work = out.with_name(out.name + UNFINISHED)
    (work / RECORDS).mkdir(parents=True, exist_ok=True)
    with exclusive_lock(work):
        _continue_or_begin(work, plan)
        parts = plan.parts()
        records, made = {}, 0
        images = len(plan.store) * len(plan.steps)
        with reporting(progress, images, f"exporting to {to}") as report:
            done = 0

            def advance(count: int) -> None:
                nonlocal done
                done += count
                if report is not None:
                    report(done)

            for part in parts:
                record = _recorded(work, part)
                if record is None:
                    record = _write_part(work, plan, part, advance)
                    made += 1
                else:
                    advance(_images_of(plan, part))
                records[part] = record
        result = _result(out, plan, records, made)
        _write_rest(work, plan, result)
    _put_in_place(work, out)
    return result


def _plan(
    store: Transformed,
    folder: Path,
    to: Format,
    snapshots: tuple[int, ...] | None,
    naming: Naming,
) -> _Plan:
    """Check everything before anything is written."""
    if to not in FORMATS:
        raise ValueError(f"to={to!r}; accepted: {', '.join(FORMATS)}.")
    if naming not in NAMINGS:
        raise ValueError(f"naming={naming!r}; accepted: {', '.join(NAMINGS)}.")
    steps = store.steps if snapshots is None else tuple(sorted(set(snapshots)))
    if missing := [step for step in steps if step not in store.steps]:
        raise ValueError(
            f"{folder} has no snapshot K = {listed(missing)}; it has {listed(store.steps)}"
        )
    manifest = store.manifest
    shape = tuple(manifest.image_shape)
    if to != "npy" and (len(shape) != 3 or shape[0] not in COLORS):
        raise ValueError(
            f"{folder} holds images of shape {shape}, and {to} holds pictures, (3, H, W) or "
            "(1, H, W): export to npy, which holds any shape"
        )
    targets = manifest.targets
    if to == "hf" and targets is not None and len(targets.shape) > 1:
        raise ValueError(
            f"{folder} holds targets of shape {targets.shape}, and the columns of hf hold numbers "
            "and lists of them: export to webdataset or npy"
        )
    folders: list[str] = [""] * len(store)
    if to in ("png", "webp") and targets is None:
        classes = class_folders(store.class_names)
        labels = store.labels.tolist()
        folders = [classes[label] if classes else str(label) for label in labels]
    if to == "hf" or to == "npy":
        names = _any_names(store.keys, to)
    else:
        names = image_names(store.keys, folders, naming)
        if to == "webdataset":
            _refuse_equal_in_tar(names, store.keys)
    return _Plan(store, to, steps, naming, names, sha256_of(folder / MANIFEST))


def _any_names(keys: tuple[str, ...], to: str) -> tuple[str, ...]:
    """Names that are no names of files: columns of a table."""
    if to == "hf":
        for key in keys:
            try:
                key.encode()
            except UnicodeEncodeError as error:
                raise ValueError(
                    f"{key!r} is not UTF-8, as the text of hf must be: export to another format"
                ) from error
    return keys


def _refuse_equal_in_tar(names: tuple[str, ...], keys: tuple[str, ...]) -> None:
    seen: dict[str, str] = {}
    for name, key in zip(names, keys, strict=True):
        if (other := seen.setdefault(tar_name(name), key)) != key:
            raise ValueError(
                f"{other!r} and {key!r} would both be called {tar_name(name)!r} in a WebDataset "
                "tar, where a dot ends the name: --names position numbers the images"
            )


def _existing(out: Path, plan: _Plan, overwrite: bool) -> Export | None:
    """Return the export that is there, if it is this one; None if there is nothing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return None
    if not out.is_dir():
        raise FileExistsError(f"{out} is a file; give a folder")
    result = out / RESULT
    found = read_json(result) if result.is_file() else None
    if not isinstance(found, dict) or found.get("plan", {}).get("format") != FORMAT:
        raise FileExistsError(f"{out} holds other files than an export's; give a new folder")
    shutil.rmtree(out / RECORDS, ignore_errors=True)  # of a run killed after it was done
    if found["plan"] == plan.description():
        if _bytes_of(out) != found["bytes"]:
            if overwrite:
                return None
            raise FileExistsError(
                f"{out} was exported, and its files have been changed or removed since. Give "
                "another folder, or write them again (--overwrite)"
            )
        loss = {int(step): Loss(**each) for step, each in found["loss"].items()}
        return Export(
            out, plan.to, found["images"], found["files"], found["bytes"], loss, 0, found["parts"]
        )
    if not overwrite:
        raise FileExistsError(
            f"{out} holds an export that was made otherwise: "
            f"{_difference(found['plan'], plan.description())}. Give another folder, or overwrite "
            "it (--overwrite)"
        )
    return None


def _difference(found: dict[str, Any], wanted: dict[str, Any]) -> str:
    names = {"to": "--to", "snapshots": "--snapshots", "names": "--names"}
    changed = [
        f"{names[key]} was {found.get(key)}, now {wanted[key]}"
        for key in names
        if found.get(key) != wanted[key]
    ]
    return "; ".join(changed) or "the store is another"


def _continue_or_begin(work: Path, plan: _Plan) -> None:
    """Keep what an earlier run of the same export left; remove what another one left."""
    head = work / RECORDS / "plan.json"
    if head.is_file() and read_json(head) == plan.description():
        return
    for each in work.iterdir():
        if each.name == RECORDS or not each.name.startswith("."):
            shutil.rmtree(each) if each.is_dir() else each.unlink()
    (work / RECORDS).mkdir()
    write_json(head, plan.description())


def _recorded(work: Path, part: _Part) -> _Record | None:
    """Read what an earlier run wrote of a part; None if any of its files is not whole."""
    path = work / part.record
    if not path.is_file():
        return None
    content = read_json(path)
    record = _Record(content["files"], Loss(**content["loss"]))
    for name, size in record.files.items():
        file = work / name
        if not file.is_file() or file.stat().st_size != size:
            return None
    return record


def _images_of(plan: _Plan, part: _Part) -> int:
    if plan.to == "npy":
        return len(plan.store)
    return plan.store.manifest.shards[part.number].images


def _write_part(work: Path, plan: _Plan, part: _Part, advance: Callable[[int], None]) -> _Record:
    """Write the files of a part, and its record once they are on the disk."""
    store = plan.store
    loss = Loss()
    if plan.to == "npy":
        spans = [store.shard_rows(shard) for shard in range(len(store.manifest.shards))]
        files = write_array(
            work,
            part.step,
            (len(store), *store.manifest.image_shape),
            (plan.rows(part.step, span).images for span in spans),
            advance,
        )
    else:
        rows = plan.rows(part.step, store.shard_rows(part.number))
        if plan.to == "hf":
            parts = len(store.manifest.shards)
            loss, files = write_parquet(work, rows, part.number, parts, advance)
        elif plan.to == "webdataset":
            loss, files = write_tar(work, rows, part.number, advance)
        else:
            loss, files = write_pictures(work, rows, plan.to, advance)
    os.sync()  # the files before the record that vouches for them
    record = _Record({name: (work / name).stat().st_size for name in files}, loss)
    write_json(work / part.record, asdict(record))
    return record


def _result(out: Path, plan: _Plan, records: dict[_Part, _Record], made: int) -> Export:
    loss = {}
    if plan.to != "npy":
        for step in plan.steps:
            loss[step] = total(each.loss for part, each in records.items() if part.step == step)
    sizes = [size for record in records.values() for size in record.files.values()]
    return Export(out, plan.to, len(plan.store), len(sizes), sum(sizes), loss, made, len(records))


def _write_rest(work: Path, plan: _Plan, result: Export) -> None:
    """Write what there is once: the table of names, the card, and export.json."""
    store = plan.store
    if plan.to == "hf":
        split = store.recipe.get("split", {})
        write_card(work, plan.steps, split.get("name", "") if isinstance(split, dict) else "")
    elif plan.to == "webdataset":
        write_classes(work, plan.steps, store.class_names)
    else:
        every = plan.rows(plan.steps[0], slice(0, len(store)), pixels=False)
        suffix = "" if plan.to == "npy" else f".{plan.to}"
        write_index(work, every, store.labels, suffix)
    write_json(
        work / RESULT,
        {
            "plan": plan.description(),
            "images": result.images,
            "files": result.files,
            "bytes": result.bytes,
            "parts": result.parts,
            "loss": {str(step): asdict(each) for step, each in result.loss.items()},
            "class_names": list(store.class_names),
            "skipped": [asdict(each) for each in store.skipped],
            "recipe": store.recipe,
        },
    )


def _put_in_place(work: Path, out: Path) -> None:
    """Rename the finished folder to OUT, and remove what it replaces."""
    old = out.with_name(out.name + REPLACED)
    if out.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.rename(out, old)
    os.rename(work, out)
    shutil.rmtree(out / RECORDS)
    shutil.rmtree(old, ignore_errors=True)


def _bytes_of(out: Path) -> int:
    """Add up the files that hold images."""
    others = {INDEX, LABELS, TARGETS, CLASSES, CARD, CLASSES_FILE, RESULT}
    files = (each for each in out.rglob("*") if each.is_file() and RECORDS not in each.parts)
    return sum(each.stat().st_size for each in files if each.name not in others)
