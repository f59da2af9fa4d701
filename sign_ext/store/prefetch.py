"""Images of the shards to be made, read a chunk ahead of the computing, in order."""

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
    """A range of positions that is read, computed and kept together.

    Attributes:
        shard: whose images they are.
        start, stop: positions in the data set.
        last: whether the shard is whole after it.
    """

    shard: int
    start: int
    stop: int
    last: bool


@dataclass(eq=False)
class Chunk:
    """Images that have been read.

    Attributes:
        piece: where they come from.
        images: uint8 (n, 3, H, W) on the CPU.
        indices: int64 (n,), positions in the data set.
        keys: n of them.
        skipped: those of the piece that could not be read.
        seconds: that reading took.
        uploaded: what the staging's upload made of the images, until they are computed.
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
        shard_size: images a shard.
        images: in the data set.
        chunk: images a piece at most.
    """
    for shard in shards:
        where = shard_range(shard, shard_size, images)
        for start in range(where.start, where.stop, chunk):
            stop = min(start + chunk, where.stop)
            yield Piece(shard, start, stop, stop == where.stop)


def read_piece(source: ImageSource, piece: Piece, on_error: OnError) -> Chunk:
    """Read a piece; where that fails, an image at a time.

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
                f"{error} Repair it, or leave such images out with --on-error skip; what is "
                "written already stays"
            ) from error
        images, kept = _one_by_one(source, piece, keys, skipped)
    return Chunk(
        piece,
        images,
        torch.tensor(kept, dtype=torch.int64),
        tuple(keys[position - start] for position in kept),
        tuple(skipped),
        time.perf_counter() - began,
    )


def _one_by_one(
    source: ImageSource, piece: Piece, keys: list[str], skipped: list[Skipped]
) -> tuple[Tensor, list[int]]:
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


@dataclass
class Ahead(Generic[T]):
    """Work done on other threads a few items before it is asked for, in order.

    Args:
        depth: items under way or waiting at most.
        threads: how many work at a time.

    Attributes:
        waited: seconds that the consumer spent waiting.
    """

    depth: int
    threads: int
    waited: float = 0.0

    def run(self, jobs: Iterable[Callable[[], T]]) -> Generator[T, None, None]:
        """Yield each job's result in order; its error, if it has one, is raised in its turn.

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
                self.waited += time.perf_counter() - began
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
