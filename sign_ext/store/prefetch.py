"""Images of the shards to be made, read ahead of the computation, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor

from sign_ext.data import ImageSource
from sign_ext.errors import StoreError
from sign_ext.store.manifest import Skipped, shard_range

OnError = Literal["fail", "skip"]
T = TypeVar("T")


@dataclass(frozen=True)
class Piece:
    """A range of positions that is read and computed together.

    Attributes:
        shard: that the images belong to.
        start, stop: positions in the data set.
        last: whether it is the last piece of its shard.
    """

    shard: int
    start: int
    stop: int
    last: bool


@dataclass(eq=False)
class Chunk:
    """The images of a piece.

    Attributes:
        piece: where they come from.
        images: uint8 (n, 3, H, W) on the CPU.
        indices: int64 (n,), positions in the data set.
        keys: n names.
        skipped: images of the piece that could not be read.
        seconds: spent reading.
        uploaded: what `Staging.upload` returned, until the images are computed.
    """

    piece: Piece
    images: Tensor
    indices: Tensor
    keys: tuple[str, ...]
    skipped: tuple[Skipped, ...] = ()
    seconds: float = 0.0
    uploaded: Any = None


def pieces(shards: Iterable[int], shard_size: int, images: int, chunk: int) -> Iterator[Piece]:
    """Cut shards into pieces.

    Args:
        shards: indices.
        shard_size: images per shard.
        images: in the data set.
        chunk: images per piece at most.
    """
    for shard in shards:
        positions = shard_range(shard, shard_size, images)
        for start in range(positions.start, positions.stop, chunk):
            stop = min(start + chunk, positions.stop)
            yield Piece(shard, start, stop, stop == positions.stop)


def read_piece(source: ImageSource, piece: Piece, on_error: OnError) -> Chunk:
    """Read a piece at once, or image by image if that fails.

    Args:
        source: the data set.
        piece: which images.
        on_error: "fail" at the first image that cannot be read, or "skip" it.

    Raises:
        StoreError: an image cannot be read.
    """
    began = time.perf_counter()
    start, stop = piece.start, piece.stop
    keys = source.keys(start, stop)
    skipped: list[Skipped] = []
    try:
        images, kept = source.read(start, stop), list(range(start, stop))
    except ValueError as error:
        if on_error == "fail":
            raise StoreError(
                f"{error} Repair it, or skip such images with --on-error skip; finished shards "
                "are kept"
            ) from error
        images, kept = _read_readable(source, piece, keys, skipped)
    return Chunk(
        piece,
        images,
        torch.tensor(kept, dtype=torch.int64),
        tuple(keys[position - start] for position in kept),
        tuple(skipped),
        time.perf_counter() - began,
    )


def _read_readable(
    source: ImageSource, piece: Piece, keys: list[str], skipped: list[Skipped]
) -> tuple[Tensor, list[int]]:
    """Return the readable images of a piece and their positions; add the others to `skipped`."""
    found, kept = [], []
    for position in range(piece.start, piece.stop):
        try:
            found.append(source.read(position, position + 1))
            kept.append(position)
        except ValueError as error:
            key = keys[position - piece.start]
            skipped.append(Skipped(position, key, str(error)))
    empty = torch.empty((0, *source.image_shape), dtype=torch.uint8)
    return torch.cat([empty, *found]), kept


def sample_images(source: ImageSource, count: int, on_error: OnError) -> Tensor:
    """Read the first images, for finding Φ and trying the engine.

    With `on_error` "skip", one readable image is enough.

    Args:
        source: the data set.
        count: number of images at most.
        on_error: as in `read_piece`.

    Returns:
        float32 (n, 3, H, W) with n ≥ 1.

    Raises:
        StoreError: an image cannot be read, and `on_error` is "fail".
        ValueError: none of the first hundred can be read.
    """
    stop = min(count, len(source))
    if on_error == "fail":
        return read_piece(source, Piece(0, 0, stop, False), "fail").images.to(torch.float32)
    try:
        return source.read(0, stop).to(torch.float32)
    except ValueError:
        pass
    tried = min(100, len(source))
    for position in range(tried):
        try:
            return source.read(position, position + 1).to(torch.float32)
        except ValueError as error:
            last = error
    raise ValueError(f"none of the first {tried} images can be read: {last}")


@dataclass
class Prefetcher(Generic[T]):
    """Runs jobs on threads ahead of their use and yields the results in order.

    Args:
        depth: jobs running or waiting to be used at most.
        threads: jobs running at most.

    Attributes:
        seconds_waited: by the consumer.
    """

    depth: int
    threads: int
    seconds_waited: float = 0.0

    def run(self, jobs: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
        """Yield each job's result in order; a job's error is raised when its turn comes.

        Args:
            jobs: called on the threads.
        """
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="sign-ext-read")
        queue: deque[Future[T]] = deque()
        source = iter(jobs)
        try:
            while True:
                while len(queue) < self.depth and (job := next(source, None)) is not None:
                    queue.append(pool.submit(job))
                if not queue:
                    return
                began = time.perf_counter()
                result = queue.popleft().result()
                self.seconds_waited += time.perf_counter() - began
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
