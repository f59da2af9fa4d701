"""Closed-form estimates of a cluster job: operations, bytes, files and disk requests."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

from cluster import RECORD_REQUESTS

# Dense peaks of an H100 or H200 SXM in NVIDIA's data sheets, FLOP/s; float32 means without TF32.
PEAKS = {"float32": 67e12, "tf32": 494.7e12, "bfloat16": 989.4e12}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
# A step is a forward pass and a backward pass to the image, which cost about the same.
PASSES = 2
# Default shard size of `sign-ext transform`, in bytes.
DEFAULT_SHARD_BYTES = 64 << 20
# Bytes of a shard's line in the manifest.
MANIFEST_LINE = 300
# Per shard: two files (the shard and its record) are created, flushed and renamed, and their folder
# is flushed each time; later the record is removed.
CREATES, RENAMES, FLUSHES = 2, 2, 4


@dataclass(frozen=True)
class Case:
    """A data set and the network it is transformed with.

    Attributes:
        title: Title in tables.
        images: Images in the data set.
        side: Width and height of an image in pixels.
        source_bytes: Bytes of an image in the source data set.
        forward: Floating-point operations of one image's forward pass up to the source layer.
    """

    title: str
    images: int
    side: int
    source_bytes: float
    forward: float

    @property
    def values(self) -> int:
        """Values of an image; also its decoded bytes."""
        return 3 * self.side**2

    @property
    def step(self) -> float:
        """Operations of one step for one image."""
        return PASSES * self.forward

    def image_bytes(self, dtype: str, snapshots: int) -> int:
        """Bytes of an image in the store, all snapshots together."""
        return snapshots * self.values * BYTES[dtype]

    def gpu_rate(self, precision: str, utilisation: float, steps: int) -> float:
        """Images per second of one GPU at the given share of its peak."""
        return PEAKS[precision] * utilisation / (steps * self.step)


# PyTorch's count of operations (experiments/stages/cost.py), without the classifier.
CASES = {
    "imagenet21k": Case("ImageNet-21k", 14_197_122, 299, 88e3, 26_308_516_032),
    "winter21": Case("winter 2021", 13_153_500, 299, 88e3, 26_308_516_032),
    "cifar10": Case("CIFAR-10, training", 45_000, 32, 3073, 53_149_696),
}


def measured_rate(file: Path, network: str, contender: str, steps: int) -> float:
    """Images per second of one process, from a result of `make bench`.

    Args:
        file: A file of benchmarks/results.
        network: The network of the race.
        contender: The contender in the race.
        steps: K of the job, to which the race's rate is scaled.

    Raises:
        ValueError: There is no race of that network, or no such contender.
    """
    races = json.loads(file.read_text("utf-8"))["races"]
    of_network = {
        row["name"]: race["facts"]["images"] * race["facts"]["steps"] / row["median"] / steps
        for race in races
        if race["name"].startswith("iterative_sign") and race["facts"].get("network") == network
        for row in race["rows"]
    }
    if contender not in of_network:
        known = ", ".join(of_network) or "no race of that network"
        raise ValueError(f"{file} has no {contender!r} for network {network!r}; it has: {known}.")
    return of_network[contender]


Rows = list[list[str]]


def job(steps: int, snapshots: int, hash_rate: float) -> Rows:
    """The table of a job's size, one column per case."""
    cases = list(CASES.values())

    def stored(dtype: str) -> list[str]:
        return [size(each.images * each.image_bytes(dtype, snapshots)) for each in cases]

    every = f"all images, K = {steps}"
    hashing = [each.images * each.image_bytes("float32", snapshots) / hash_rate for each in cases]
    return [
        ["", "formula", *(each.title for each in cases)],
        ["images", "N", *(f"{each.images:,}" for each in cases)],
        ["values per image", "P = 3·side²", *(f"{each.values:,}" for each in cases)],
        ["one step", "2·F", *(flop(each.step) for each in cases)],
        ["per image", f"{steps}·2·F", *(flop(steps * each.step) for each in cases)],
        [every, f"N·{steps}·2·F", *(flop(each.images * steps * each.step) for each in cases)],
        ["read", "N·source", *(size(each.images * each.source_bytes) for each in cases)],
        ["stored, float32", f"N·{snapshots}·P·4 B", *stored("float32")],
        ["stored, 16 bits", f"N·{snapshots}·P·2 B", *stored("float16")],
        [
            "SHA-256 of float32",
            "stored / rate",
            *(f"{duration(each)} on one core" for each in hashing),
        ],
    ]


def compute(case: Case, ranks: int, utilisation: float, steps: int, snapshots: int) -> Rows:
    """The table of GPU time and data rates, one row per precision."""
    rows = [
        [
            "precision",
            "peak",
            "images/s per GPU",
            "GPU hours",
            f"on {ranks:,}",
            "images/s, all",
            "reads",
            "writes float32",
            "writes 16 bits",
        ]
    ]
    for precision, peak in PEAKS.items():
        rate = case.gpu_rate(precision, utilisation, steps)
        seconds = case.images / rate
        rows.append(
            [
                precision,
                f"{peak / 1e12:.4g} TFLOP/s",
                f"{rate:.3g}",
                f"{seconds / 3600:,.0f}",
                duration(seconds / ranks),
                f"{rate * ranks:,.0f}",
                size(rate * ranks * case.source_bytes) + "/s",
                size(rate * ranks * case.image_bytes("float32", snapshots)) + "/s",
                size(rate * ranks * case.image_bytes("float16", snapshots)) + "/s",
            ]
        )
    return rows


def shards(
    case: Case,
    sizes: list[int],
    *,
    ranks: int,
    rate: float,
    dtype: str,
    snapshots: int,
    request_seconds: float,
) -> Rows:
    """The table of the effects of the shard size, one row per size, the default first."""
    rows = [
        [
            "images per shard",
            "size",
            "shards",
            "shards per rank",
            "work",
            "memory",
            "creates + renames",
            "manifest",
            "rank 0 at the end",
            "lost at a pre-emption",
        ]
    ]
    image_bytes = case.image_bytes(dtype, snapshots)
    default = max(1, DEFAULT_SHARD_BYTES // image_bytes)
    for each in [default, *sizes]:
        count = math.ceil(case.images / each)
        work = each / rate
        shards_per_second = min(ranks, count) / work
        rows.append(
            [
                f"{each:,}" + (" (default)" if each == default else ""),
                size(each * image_bytes),
                f"{count:,}",
                f"{math.ceil(count / ranks):,}",
                duration(work),
                size(2 * each * (image_bytes + case.values)),
                f"{shards_per_second * (CREATES + RENAMES):,.0f}/s",
                size(count * MANIFEST_LINE),
                duration(count * RECORD_REQUESTS * request_seconds),
                f"{ranks * work / 2 / 3600:.2g} GPU hours",
            ]
        )
    return rows


def duration(seconds: float) -> str:
    """Format seconds with three digits and a suitable unit.

    >>> duration(90), duration(5000), duration(2e5)
    ('90 s', '83.3 min', '55.6 h')
    """
    for unit, one, most in (
        ("ms", 1e-3, 0.5),
        ("s", 1, 120),
        ("min", 60, 7200),
        ("h", 3600, 3.6e5),
    ):
        if seconds < most:
            return f"{seconds / one:.3g} {unit}"
    return f"{seconds / 86400:,.3g} d"


def size(value: float) -> str:
    """Format bytes with three digits and a suitable unit.

    >>> size(1_234_567)
    '1.23 MB'
    """
    return _scaled(value, "B", ("", "k", "M", "G", "T", "P"))


def flop(value: float) -> str:
    """Format operations with three digits and a suitable unit.

    >>> flop(52.6e9)
    '52.6 GFLOP'
    """
    return _scaled(value, "FLOP", ("", "k", "M", "G", "T", "P", "E"))


def _scaled(value: float, unit: str, prefixes: tuple[str, ...]) -> str:
    power = 0
    while float(f"{value:.3g}") >= 1000 and power < len(prefixes) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g} {prefixes[power]}{unit}"
