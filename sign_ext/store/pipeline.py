"""Shards on their way: chunks read ahead, computed in order, whole shards written behind."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sign_ext.data import ImageSet, ImageSource, fingerprint
from sign_ext.errors import DivergenceError, StoreError
from sign_ext.sign import SignTransform
from sign_ext.store.budget import Plan
from sign_ext.store.change import change_of
from sign_ext.store.manifest import DTYPES, Manifest, shard_file
from sign_ext.store.prefetch import Ahead, Chunk, OnError, Piece, pieces, read_piece
from sign_ext.store.shard import ShardContent, write_shard
from sign_ext.store.staging import Staging, staging_for

Report = Callable[[int], None]


@dataclass
class Shares:
    """Where a run's time went, in seconds; the first three add up to the run.

    Attributes:
        compute: the engine at work, and what little lies between.
        wait_for_images: the engine waiting for reading and decoding.
        wait_for_disk: the engine waiting for shards to be written.
        decode: reading and decoding beside it, summed over threads.
        write: writing beside it.
        images: transformed.
    """

    compute: float = 0.0
    wait_for_images: float = 0.0
    wait_for_disk: float = 0.0
    decode: float = 0.0
    write: float = 0.0
    images: int = 0

    def in_words(self) -> str:
        """One line: shares of the time, and what went on beside the computing."""
        total = max(self.compute + self.wait_for_images + self.wait_for_disk, 1e-9)
        return (
            f"{self.images:,} images in {total:.1f} s: computing {self.compute / total:.1%}, "
            f"waiting for decoding {self.wait_for_images / total:.1%} and for writing "
            f"{self.wait_for_disk / total:.1%}; beside it {self.decode:.1f} s of decoding and "
            f"{self.write:.1f} s of writing"
        )


@dataclass(frozen=True, eq=False)
class Work:
    """What filling shards needs.

    Attributes:
        sign: the transform, with snapshots.
        source: the data set.
        folder: the store.
        manifest: on disk.
        plan: how much at a time.
        readers: threads that read.
        on_error: what an image that cannot be read does.
    """

    sign: SignTransform
    source: ImageSource
    folder: Path
    manifest: Manifest
    plan: Plan
    readers: int
    on_error: OnError


@dataclass(eq=False)
class Filling:
    """A shard that is being filled.

    Attributes:
        index: of the shard.
        buffers: number of steps → rows for the images of a shard, of the stored dtype.
        chunks: what has been computed into it.
        filled: rows in use.
    """

    index: int
    buffers: dict[int, Tensor]
    chunks: list[Chunk] = field(default_factory=list)
    filled: int = 0

    def rows(self, count: int) -> dict[int, Tensor]:
        """The next rows of each snapshot."""
        return {k: each[self.filled : self.filled + count] for k, each in self.buffers.items()}

    def content(self, labels: Tensor) -> ShardContent:
        """What is to be written; labels are of the whole data set."""
        indices = torch.cat([chunk.indices for chunk in self.chunks])
        keys = tuple(key for chunk in self.chunks for key in chunk.keys)
        images = {step: each[: self.filled] for step, each in self.buffers.items()}
        return ShardContent(images, labels[indices], indices, keys)


def _buffers(work: Work, staging: Staging) -> dict[int, Tensor]:
    """Memory for a shard."""
    manifest = work.manifest
    shape = (min(manifest.shard_size, manifest.images), *manifest.image_shape)
    make = partial(torch.empty, shape, dtype=DTYPES[manifest.dtype], pin_memory=staging.pinned)
    return {step: make() for step in manifest.snapshots}


def fill_shards(work: Work, shards: Sequence[int], report: Report | None) -> Shares:
    """Make shards, one after the other.

    Args:
        work: what it needs.
        shards: indices.
        report: called with the image-steps done.

    Returns:
        Where the time went.

    Raises:
        StoreError: an image cannot be read, or a shard cannot be written.
        DivergenceError: an iterate is not finite.
    """
    shares, began = Shares(), time.perf_counter()
    staging = staging_for(next(work.sign.model.parameters()).device)
    ahead: Ahead[Chunk] = Ahead(work.plan.ahead, work.readers)
    chunks = ahead.run(_reads(work, shards, staging))
    labels = torch.tensor(work.source.labels)
    writer = ThreadPoolExecutor(1, thread_name_prefix="sign-ext-write")
    writing: Future[float] | None = None
    try:
        # Taken once: one is filled while the other one is written.
        memory = [_buffers(work, staging) for _ in range(min(2, len(shards)))]
        for turn, index in enumerate(shards):
            filling = Filling(index, memory[turn % 2])
            for chunk in _until_whole(chunks):
                shares.decode += chunk.seconds
                _compute(work, chunk, filling, staging, shares.images, report)
                shares.images += len(chunk.indices)
            _wait(writing, shares)
            writing = writer.submit(_write, work, filling, labels, staging.landed())
        _wait(writing, shares)
    finally:
        chunks.close()
        writer.shutdown(wait=True)
    shares.wait_for_images = ahead.waited
    total = time.perf_counter() - began
    shares.compute = total - shares.wait_for_images - shares.wait_for_disk
    return shares


def _reads(work: Work, shards: Sequence[int], staging: Staging) -> Iterator[Callable[[], Chunk]]:
    """The jobs of the reading threads."""
    size, images = work.manifest.shard_size, work.manifest.images

    def read(piece: Piece) -> Chunk:
        chunk = read_piece(work.source, piece, work.on_error)
        chunk.uploaded = staging.upload(chunk.images)
        return chunk

    for piece in pieces(shards, size, images, work.plan.chunk):
        yield partial(read, piece)


def _until_whole(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """The chunks of one shard."""
    for chunk in chunks:
        yield chunk
        if chunk.piece.last:
            return


def _compute(
    work: Work,
    chunk: Chunk,
    filling: Filling,
    staging: Staging,
    before: int,
    report: Report | None,
) -> None:
    """Transform a chunk into its shard's rows."""
    count, steps = len(chunk.indices), work.manifest.snapshots[-1]
    filling.chunks.append(chunk)
    if not count:
        return
    images, rows = staging.arrived(chunk.uploaded), filling.rows(count)
    chunk.uploaded = None

    def progress(done: int, total: int) -> None:
        assert report is not None
        report(before * steps + done)

    straight = images.device.type == "cpu" and work.manifest.dtype == "float32"
    try:
        results = work.sign.transform(
            images, out=rows if straight else None, progress=progress if report else False
        )
    except DivergenceError as error:
        raise DivergenceError(
            f"images {chunk.piece.start} to {chunk.piece.stop - 1} of {work.source.name}: {error}",
            error.step,
        ) from error
    assert isinstance(results, dict)
    if not straight:
        staging.download(results, rows)
    filling.filled += count


def _write(work: Work, filling: Filling, labels: Tensor, landed: Callable[[], None]) -> float:
    """Write a shard, on the writing thread; return the seconds that it took."""
    began = time.perf_counter()
    landed()
    content = filling.content(labels)
    _require_finite(work, filling.index, content)
    images = torch.cat([chunk.images for chunk in filling.chunks])
    source = work.source
    originals = ImageSet(images, content.labels, source.class_names, source.name)
    skipped = [each for chunk in filling.chunks for each in chunk.skipped]
    write_shard(
        work.folder,
        filling.index,
        content,
        originals=fingerprint(originals),
        skipped=tuple(skipped),
        change=change_of(content.snapshots, images),
    )
    return time.perf_counter() - began


def _require_finite(work: Work, index: int, content: ShardContent) -> None:
    """Refuse values that the stored dtype cannot hold: float16 ends at 65,504."""
    if work.manifest.dtype != "float16":
        return
    for step, images in content.snapshots.items():
        if not bool(torch.isfinite(images).all()):
            raise StoreError(
                f"{shard_file(index)}: p*_{step} has values beyond ±65,504, which float16 cannot "
                "hold: store bfloat16 or float32, or lower the step size"
            )


def _wait(writing: Future[float] | None, shares: Shares) -> None:
    """Wait for the shard that is being written; its error is raised here."""
    if writing is not None:
        began = time.perf_counter()
        shares.write += writing.result()
        shares.wait_for_disk += time.perf_counter() - began
