"""What a transform holds in memory, and how it keeps within what it may."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass
from pathlib import Path

from sign_ext.formatting import bytes_in_words
from sign_ext.store.manifest import DTYPES

CHUNK_BYTES = 16 << 20  # of float32 images handed to the engine at once: calls cost little then
MORE = 4 << 30  # than before the first image, where nobody said what may be taken
SLACK = 64 << 20  # the allocator's own, headers, decoders


@dataclass(frozen=True)
class Load:
    """Sizes that decide what lies in memory.

    Attributes:
        image: values of one image, C·H·W.
        snapshots: how many are kept.
        dtype: they are stored in.
        shard: images a shard.
        batch: images the engine takes at once.
        on_cpu: whether the images stay in the host's memory while they are computed.
        least: images that the engine may be given at once where `batch` do not fit; None for no
            fewer than `batch`, because the caller asked for them.
    """

    image: int
    snapshots: int
    dtype: str
    shard: int
    batch: int
    on_cpu: bool
    least: int | None = None

    @property
    def shard_bytes(self) -> int:
        """One shard under way: snapshots, and the originals, which its fingerprint joins."""
        return self.shard * self.image * (self.snapshots * DTYPES[self.dtype].itemsize + 2)

    def chunk_bytes(self, chunk: int) -> int:
        """One chunk while it is computed: float32 images, and results not yet in their shard."""
        direct = not self.on_cpu or self.dtype == "float32"
        return chunk * self.image * 4 * (1 + (0 if direct else self.snapshots)) * self.on_cpu


@dataclass(frozen=True)
class Plan:
    """How much is read and computed at a time.

    Attributes:
        chunk: images read, and handed to the engine, together.
        ahead: chunks that are read before they are needed.
        bytes: the peak of the process's memory by this plan.
    """

    chunk: int
    ahead: int
    bytes: int


def peak() -> int:
    """The process's peak resident memory, since it began or since `forget_peak`, in bytes."""
    try:
        # What getrusage tells on Linux counts the process that this one was forked from, too.
        return _status("VmHWM")
    except (OSError, StopIteration):
        found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return found if sys.platform == "darwin" else found * 1024


def forget_peak() -> None:
    """Let `peak` begin anew, where the system can do that: a long life may have seen much."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text("ascii", "replace").splitlines()
    line = next(each for each in lines if each.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def plan_memory(load: Load, budget: int | None, base: int, ahead: int) -> Plan:
    """Fit chunks and what is read ahead into a budget.

    Two shards are under way at a time: one is filled while the one before it is written.

    Args:
        load: sizes.
        budget: bytes that the process may take in all; None for `MORE` than `base`.
        base: bytes that it takes before the first image.
        ahead: chunks to read ahead, if they fit.

    Raises:
        ValueError: not even the least fits; the message says what would.
    """
    if budget is None:
        budget = base + MORE
    chunk = max(load.batch, CHUNK_BYTES // (4 * load.image) // load.batch * load.batch)
    chunk = min(chunk, load.shard)
    sizes = [(chunk, ahead), (chunk, 1), (min(load.batch, load.shard), 1)]
    if load.least is not None:
        sizes.append((min(load.least, load.batch, load.shard), 1))
    for size, depth in sizes:
        need = _need(load, base, size, depth)
        if need <= budget:
            return Plan(size, depth, need)
    least = _need(load, base, *sizes[-1])
    room = budget - (least - 2 * load.shard_bytes)
    fits = room // (2 * load.shard_bytes // load.shard)
    instead = f"or --shard-size to at most {fits:,} (now {load.shard:,})" if fits >= 1 else ""
    raise ValueError(
        f"this takes {bytes_in_words(least)}, memory (--memory) allows {bytes_in_words(budget)}: "
        f"raise it, {instead or 'or lower --batch-size'}"
    )


def _need(load: Load, base: int, chunk: int, ahead: int) -> int:
    # What is read ahead, and one more chunk that the computing holds.
    waiting = (ahead + 1) * chunk * load.image
    return base + SLACK + waiting + load.chunk_bytes(chunk) + 2 * load.shard_bytes


def parse_size(text: str) -> int:
    """Read a number of bytes: "4GB", "512 MiB", "1.5e9".

    Args:
        text: a number and a unit: B, kB, MB, GB, TB, KiB, MiB, GiB or TiB; none is bytes.

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
        raise ValueError(f"{text!r} is no size; accepted: a number with a unit, such as 4GB")
    return size
