"""Images of the shards to be made, read ahead of the computation, in order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from sign_ext.data import ImageSource, UnreadableImages
from sign_ext.data.decode import OnError
from sign_ext.errors import StoreError
from sign_ext.store.manifest import Skipped, shard_range

T = TypeVar("T")

ADVICE = "Or leave such images out: --on-error skip. Finished shards are kept"
SEARCHED = 1024  # images decoded at a time when all that cannot be read are looked for


class UnreadableImageError(StoreError):
    """An image cannot be read; its cause says which."""


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
        on_error: "fail" if an image cannot be read, or "skip" it.

    Raises:
        UnreadableImageError: an image cannot be read.
    """
    began = time.perf_counter()
    start, stop = piece.start, piece.stop
    keys = source.keys(start, stop)
    if on_error == "skip":
        images, kept, problems = source.read_readable(start, stop)
    else:
        try:
            images, kept, problems = source.read(start, stop), list(range(start, stop)), []
        except ValueError as error:
            raise UnreadableImageError(f"{error} {ADVICE}") from error
    return Chunk(
        piece,
        images,
        torch.tensor(kept, dtype=torch.int64),
        tuple(keys[position - start] for position in kept),
        tuple(Skipped(each.index, each.key, each.why) for each in problems),
        time.perf_counter() - began,
    )


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
        UnreadableImageError: an image cannot be read, and `on_error` is "fail".
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


@contextmanager
def listing_unreadable(source: ImageSource, say: Callable[[str], None] | None) -> Iterator[None]:
    """When an image cannot be read, look through all others, so that one run finds them all.

    Args:
        source: the data set.
        say: called with what the user should know meanwhile.

    Raises:
        StoreError: an image could not be read inside the block; it lists every one that cannot be.
    """
    try:
        yield
    except UnreadableImageError as error:
        if say:
            say(f"{error.__cause__} Looking for other images that cannot be read …")
        found = [
            each
            for start in range(0, len(source), SEARCHED)
            for each in source.find_unreadable(start, min(start + SEARCHED, len(source)))
        ]
        if not found:  # it can be read by now
            raise
        listed = UnreadableImages(found, ADVICE)
        failure = StoreError(str(listed))
        failure.details, failure.summary = listed.details, listed.summary
        raise failure from error


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
