"""The pipeline that makes shards: read ahead, compute in order, write in the background."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sign_ext.data import ImageSource
from sign_ext.data.image_set import fingerprint_of
from sign_ext.errors import DivergenceError, StoreError
from sign_ext.formatting import counted
from sign_ext.set_aside import discard
from sign_ext.store.budget import ChunkPlan
from sign_ext.store.iteration import Iteration, labels_for
from sign_ext.store.manifest import DTYPES, Manifest, shard_file
from sign_ext.store.prefetch import Chunk, OnError, Piece, Prefetcher, pieces, read_piece
from sign_ext.store.shard import ShardContent, change_of, write_shard
from sign_ext.store.staging import Staging, staging_for

Report = Callable[[int], None]


@dataclass
class Shares:
    """Where a run's time went, in seconds; the first three add up to the run.

    Attributes:
        compute: the engine, and the little else that this thread does.
        wait_for_images: the engine idle because images are not decoded yet.
        wait_for_disk: the engine idle because a shard is still being written.
        decode: reading and decoding in the background, summed over threads.
        write: writing in the background.
        images: number transformed.
    """

    compute: float = 0.0
    wait_for_images: float = 0.0
    wait_for_disk: float = 0.0
    decode: float = 0.0
    write: float = 0.0
    images: int = 0

    def in_words(self) -> str:
        """Return one line: each share of the time, and the seconds of background work."""
        total = max(self.compute + self.wait_for_images + self.wait_for_disk, 1e-9)
        return (
            f"{counted(self.images, 'image')} in {total:.1f} s: "
            f"computing {self.compute / total:.1%}, "
            f"waiting for decoding {self.wait_for_images / total:.1%} and for writing "
            f"{self.wait_for_disk / total:.1%}; in the background {self.decode:.1f} s of decoding "
            f"and {self.write:.1f} s of writing"
        )


@dataclass(frozen=True, eq=False)
class Work:
    """What `fill_shards` works with.

    Attributes:
        iteration: what makes the images.
        source: the data set.
        folder: the store.
        manifest: on disk.
        plan: how much is read and computed at a time.
        readers: number of reading threads.
        on_error: what an image that cannot be read does.
        first: whether this process removes the store that is replaced, with its first shard.
    """

    iteration: Iteration
    source: ImageSource
    folder: Path
    manifest: Manifest
    plan: ChunkPlan
    readers: int
    on_error: OnError
    first: bool = True


@dataclass(eq=False)
class Filling:
    """A shard that is being filled.

    Attributes:
        index: of the shard.
        buffers: number of steps → rows for the images of a shard, of the stored dtype.
        chunks: computed so far.
        filled: rows in use.
    """

    index: int
    buffers: dict[int, Tensor]
    chunks: list[Chunk] = field(default_factory=list)
    filled: int = 0

    def rows(self, count: int) -> dict[int, Tensor]:
        """Return the next free rows of each snapshot."""
        return {k: each[self.filled : self.filled + count] for k, each in self.buffers.items()}

    def content(self, source: ImageSource) -> ShardContent:
        """Return what is written; the source has the labels."""
        indices = torch.cat([chunk.indices for chunk in self.chunks])
        keys = tuple(key for chunk in self.chunks for key in chunk.keys)
        images = {step: each[: self.filled] for step, each in self.buffers.items()}
        return ShardContent(images, source.targets_of(indices), indices, keys)


def fill_shards(work: Work, shards: Sequence[int], report: Report | None) -> Shares:
    """Make shards, one after the other.

    Args:
        work: what they are made from.
        shards: indices.
        report: called with the image-steps done.

    Returns:
        Where the time went.

    Raises:
        StoreError: an image cannot be read, or a shard cannot be written.
        DivergenceError: an iterate is not finite.
    """
    shares, began = Shares(), time.perf_counter()
    staging = staging_for(next(work.iteration.model.parameters()).device)
    prefetcher: Prefetcher[Chunk] = Prefetcher(work.plan.ahead, work.readers)
    chunks = prefetcher.run(_reading_jobs(work, shards, staging))
    writer = ThreadPoolExecutor(1, thread_name_prefix="sign-ext-write")
    writing: Future[float] | None = None
    try:
        # Two sets of buffers, used in turn: one is filled while the other is written. `_wait`
        # comes before the next write starts, so at most one is ever being written.
        buffers = [_buffers(work, staging) for _ in range(min(2, len(shards)))]
        for turn, index in enumerate(shards):
            filling = Filling(index, buffers[turn % 2])
            for chunk in _chunks_of_a_shard(chunks):
                shares.decode += chunk.seconds
                _compute(work, chunk, filling, staging, shares.images, report)
                shares.images += len(chunk.indices)
            _wait(writing, shares)
            writing = writer.submit(_write, work, filling, staging.download_barrier())
        _wait(writing, shares)
    finally:
        chunks.close()
        writer.shutdown(wait=True)
    shares.wait_for_images = prefetcher.seconds_waited
    total = time.perf_counter() - began
    shares.compute = total - shares.wait_for_images - shares.wait_for_disk
    return shares


def _buffers(work: Work, staging: Staging) -> dict[int, Tensor]:
    """Allocate the rows of a shard."""
    manifest = work.manifest
    shape = (min(manifest.shard_size, manifest.images), *manifest.image_shape)
    make = partial(torch.empty, shape, dtype=DTYPES[manifest.dtype], pin_memory=staging.pinned)
    return {step: make() for step in manifest.snapshots}


def _reading_jobs(
    work: Work, shards: Sequence[int], staging: Staging
) -> Iterator[Callable[[], Chunk]]:
    """Yield the jobs of the reading threads: read a piece and start its upload."""
    size, images = work.manifest.shard_size, work.manifest.images

    def read(piece: Piece) -> Chunk:
        chunk = read_piece(work.source, piece, work.on_error)
        chunk.uploaded = staging.upload(chunk.images)
        return chunk

    for piece in pieces(shards, size, images, work.plan.chunk):
        yield partial(read, piece)


def _chunks_of_a_shard(chunks: Iterator[Chunk]) -> Iterator[Chunk]:
    """Yield chunks up to the last one of a shard."""
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
    """Transform a chunk into its shard's rows; `before` images were transformed earlier."""
    count, steps = len(chunk.indices), work.iteration.image_steps
    filling.chunks.append(chunk)
    if not count:
        return
    images, rows = staging.receive(chunk.uploaded), filling.rows(count)
    chunk.uploaded = None

    def progress(done: int, total: int) -> None:
        assert report is not None
        report(before * steps + done)

    # The engine writes float32 results on the CPU straight into the shard's rows.
    in_place = images.device.type == "cpu" and work.manifest.dtype == "float32"
    try:
        results = work.iteration.run(
            images,
            labels_for(work.iteration, work.source, chunk.indices, images.device),
            chunk.indices,
            out=rows if in_place else None,
            progress=progress if report else None,
        )
    except DivergenceError as error:
        # The message counts images from the first one of the chunk.
        first = int(chunk.indices[0])
        counting = f", counting images from the one at position {first}" if first else ""
        raise DivergenceError(f"{work.source.name}{counting}: {error}", error.step) from error
    if not in_place:
        staging.download(results, rows)
    filling.filled += count


def _write(work: Work, filling: Filling, wait_for_downloads: Callable[[], None]) -> float:
    """Write a shard; runs on the writing thread. Returns the seconds it took."""
    began = time.perf_counter()
    wait_for_downloads()
    content = filling.content(work.source)
    _require_finite(work, filling.index, content)
    images = torch.cat([chunk.images for chunk in filling.chunks])
    skipped = [each for chunk in filling.chunks for each in chunk.skipped]
    write_shard(
        work.folder,
        filling.index,
        content,
        originals=fingerprint_of(images, content.labels),
        skipped=tuple(skipped),
        change=change_of(content.snapshots, images),
    )
    if work.first:
        discard(work.folder)
    return time.perf_counter() - began


def _require_finite(work: Work, index: int, content: ShardContent) -> None:
    """Raise if the stored dtype cannot hold a value: the largest float16 is 65,504."""
    if work.manifest.dtype != "float16":
        return
    for step, images in content.snapshots.items():
        if not bool(torch.isfinite(images).all()):
            raise StoreError(
                f"{shard_file(index)}: p*_{step} has values beyond ±65,504, which float16 cannot "
                "hold: store bfloat16 or float32, or lower the step size"
            )


def _wait(writing: Future[float] | None, shares: Shares) -> None:
    """Wait for the shard that is being written; raises its error."""
    if writing is not None:
        began = time.perf_counter()
        shares.write += writing.result()
        shares.wait_for_disk += time.perf_counter() - began
