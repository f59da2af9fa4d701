"""The memory that a transform takes, and the plan that keeps it within a budget."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from sign_ext.formatting import bytes_in_words

# Float32 images passed to the engine at once: large enough to make a call's overhead negligible.
CHUNK_BYTES = 16 << 20
DEFAULT_EXTRA = 4 << 30  # on top of what the process takes before the first image
SLACK = 64 << 20  # for the allocator, headers and decoders


@dataclass(frozen=True)
class Load:
    """The sizes that determine the memory needed.

    Attributes:
        image: values of one image, C·H·W.
        snapshots: number of snapshots stored.
        dtype: of the stored images.
        shard: images per shard.
        batch: images the engine takes at once.
        on_cpu: whether images are computed in host memory.
        target: bytes of one image's target.
        min_batch: images that the engine may take at once if `batch` do not fit; None if the
            caller asked for `batch`, which is then not lowered.
    """

    image: int
    snapshots: int
    dtype: str
    shard: int
    batch: int
    on_cpu: bool
    target: int = 8
    min_batch: int | None = None

    @property
    def shard_bytes(self) -> int:
        """Memory of one shard: snapshots, originals, their copy for fingerprinting, targets."""
        from sign_ext.store.manifest import DTYPES

        images = self.image * (self.snapshots * DTYPES[self.dtype].itemsize + 2)
        return self.shard * (images + 2 * (self.target if self.target > 8 else 0))

    def chunk_bytes(self, chunk: int) -> int:
        """Host memory of a chunk being computed: float32 images, results not yet in their shard."""
        direct = not self.on_cpu or self.dtype == "float32"
        return chunk * self.image * 4 * (1 + (0 if direct else self.snapshots)) * self.on_cpu


@dataclass(frozen=True)
class ChunkPlan:
    """How much is read and computed at a time.

    Attributes:
        chunk: images that are read and passed to the engine together.
        ahead: chunks read before they are needed.
        bytes: the planned peak of the process's memory.
    """

    chunk: int
    ahead: int
    bytes: int


def peak() -> int:
    """Return the process's peak resident memory, since its start or `reset_peak`, in bytes."""
    try:
        # Not getrusage: on Linux its maximum includes the process this one was forked from.
        return _status("VmHWM")
    except (OSError, StopIteration):
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else found * 1024


def reset_peak() -> None:
    """Restart the measurement of `peak` where the system can, so that the past does not count."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    line = next(each for each in lines if each.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def plan_memory(load: Load, budget: int | None, base: int, ahead: int) -> ChunkPlan:
    """Choose the size and number of chunks that fit into a budget.

    Two shards are in memory at a time: one is filled while the previous one is written.

    Args:
        load: sizes.
        budget: bytes that the process may take in total; None is `DEFAULT_EXTRA` more than `base`.
        base: bytes that it takes before the first image.
        ahead: chunks to read ahead, if they fit.

    Raises:
        ValueError: even the smallest plan does not fit; the message says what would.
    """
    if budget is None:
        budget = base + DEFAULT_EXTRA
    # A multiple of the batch, so that the batches are the same in every chunk.
    chunk = max(load.batch, CHUNK_BYTES // (4 * load.image) // load.batch * load.batch)
    chunk = min(chunk, load.shard)
    sizes = [(chunk, ahead), (chunk, 1), (min(load.batch, load.shard), 1)]
    if load.min_batch is not None:
        sizes.append((min(load.min_batch, load.batch, load.shard), 1))
    for size, depth in sizes:
        need = _need(load, base, size, depth)
        if need <= budget:
            return ChunkPlan(size, depth, need)
    least = _need(load, base, *sizes[-1])
    space = budget - (least - 2 * load.shard_bytes)
    fits = space // (2 * load.shard_bytes // load.shard)
    instead = f"or --shard-size to at most {fits:,} (now {load.shard:,})" if fits >= 1 else ""
    raise ValueError(
        f"this takes {bytes_in_words(least)}, memory (--memory) allows {bytes_in_words(budget)}: "
        f"raise it, {instead or 'or lower --batch-size'}"
    )


def _need(load: Load, base: int, chunk: int, ahead: int) -> int:
    # The chunks read ahead, and one more that is being computed.
    waiting = (ahead + 1) * chunk * load.image
    return base + SLACK + waiting + load.chunk_bytes(chunk) + 2 * load.shard_bytes


def parse_size(text: str) -> int:
    """Parse a number of bytes: "4GB", "512 MiB", "1.5e9".

    Args:
        text: a number and a unit (B, kB, MB, GB, TB, KiB, MiB, GiB or TiB); without one, bytes.

    Raises:
        ValueError: anything else.

    Example:
        >>> parse_size("1.5 GB"), parse_size("2GiB")
        (1500000000, 2147483648)
    """
    units = {"": 1, "b": 1}
    for power, prefix in enumerate("kmgt", 1):
        units[f"{prefix}b"] = 1000**power
        units[f"{prefix}ib"] = 1024**power
    number = text.strip().rstrip("BbKkMmGgTtIi ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        size = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        size = 0
    if size < 1:
        raise ValueError(f"{text!r} is not a size; accepted: a number with a unit, such as 4GB")
    return size
