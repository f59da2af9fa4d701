"""Measure `sign-ext transform` against the engine alone: throughput, memory, two processes.

    python benchmarks/measure_stores.py throughput memory processes \\
        --out benchmarks/results/stores_cpu.json

throughput  ratio of medians of the engine alone on images in memory to the whole command on the
            same images (reading, computing, hashing, writing, manifest), in turns
memory      peak of a process that transforms 50,000 images, and its memory budget
processes   images per second of one process and of two under torchrun, one thread each, in turns
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sign_ext import SignTransform
from sign_ext.data import ImageSource
from sign_ext.environment import commit, versions
from sign_ext.files import write_whole
from sign_ext.models import build_model
from sign_ext.store import transform_to_store
from sign_ext.store.budget import peak
from sign_ext.store.coordination import Ranks

SHAPE = (3, 32, 32)
BUDGET = 1_500_000_000


def source_of(count: int) -> ImageSource:
    """A source of random images, generated when they are read, so that they take no memory."""

    def read(start: int, stop: int) -> torch.Tensor:
        rng = np.random.default_rng(start)
        return torch.from_numpy(rng.integers(0, 256, (stop - start, *SHAPE), dtype=np.uint8))

    def name(start: int, stop: int) -> list[str]:
        return [f"random/{position}" for position in range(start, stop)]

    labels = np.arange(count) % 10
    classes = tuple(map(str, range(10)))
    return ImageSource("random", labels, classes, SHAPE, f"{count:064d}", "", 0, read, name)


def sign_of(model: str, steps: int) -> SignTransform:
    """SIGN for a network with random weights; trained ones would take the same work."""
    torch.manual_seed(0)
    network = build_model(model, num_classes=10, image_shape=SHAPE).eval()
    return SignTransform(network, steps, step_size=100.0, snapshots=(steps // 2, steps))


def throughput(options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the engine alone and of the whole store, in turns."""
    source, sign = source_of(options.images), sign_of(options.model, options.steps)
    images = source.read(0, len(source)).float()
    sign.transform(images[:256])
    bare, whole = [], []
    for _ in range(options.rounds):
        began = time.perf_counter()
        sign.transform(images)
        bare.append(time.perf_counter() - began)
        with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
            began = time.perf_counter()
            run = transform_to_store(sign, source, folder, ranks=Ranks(), shard_size=512)
            whole.append(time.perf_counter() - began)
    share = statistics.median(bare) / statistics.median(whole)
    print(
        f"{options.model}, {options.images} images, K = {options.steps}: a store takes "
        f"{statistics.median(whole):.2f} s, the engine alone {statistics.median(bare):.2f} s: "
        f"{share:.1%} of its throughput; {run.shares.in_words()}"
    )
    return {
        "model": options.model,
        "images": options.images,
        "steps": options.steps,
        "engine_seconds": bare,
        "store_seconds": whole,
        "share": share,
    }


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of a separate process that transforms 50,000 images within a budget."""
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        command = [sys.executable, __file__, "worker", "--out", folder, "--model", options.model]
        command += ["--images", "50000", "--steps", "2", "--threads", "2"]
        numbers = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    print(
        f"50,000 images, float32, K = 1 and 2: peak {numbers['peak'] / 1e6:.0f} MB of a budget of "
        f"{BUDGET / 1e6:.0f} MB; before the first image {numbers['base'] / 1e6:.0f} MB; "
        f"the store has {numbers['bytes'] / 1e6:.0f} MB"
    )
    return {**numbers, "budget": BUDGET}


def processes(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of one and of two processes, one thread each, in turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for count, found in rates.items():
            with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
                found.append(options.images / _slowest(count, folder, options))
    ratio = statistics.median(rates[2]) / statistics.median(rates[1])
    print(
        f"{options.model}, K = {options.steps}, one thread per process: "
        f"{statistics.median(rates[1]):.1f} images/s by one, {statistics.median(rates[2]):.1f} "
        f"by two: {ratio:.2f} times"
    )
    return {
        "model": options.model,
        "images": options.images,
        "steps": options.steps,
        "images_a_second": rates,
        "ratio": ratio,
    }


def _slowest(count: int, folder: str, options: argparse.Namespace) -> float:
    """Seconds that the slowest of `count` processes spent on its shards."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={count}", __file__, "worker", "--out", folder]
    command += ["--model", options.model, "--images", str(options.images)]
    command += ["--steps", str(options.steps), "--threads", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return max(json.loads(line)["seconds"] for line in finished.stdout.splitlines() if line)


def worker(options: argparse.Namespace) -> None:
    """Run one process and print its numbers as JSON to stdout."""
    torch.set_num_threads(options.threads)
    sign = sign_of(options.model, options.steps)
    base = peak()
    run = transform_to_store(
        sign,
        source_of(options.images),
        options.out,
        shard_size=2500 if options.images >= 10_000 else 64,
        memory=BUDGET,
    )
    shares = run.shares
    seconds = shares.compute + shares.wait_for_images + shares.wait_for_disk
    print(
        json.dumps(
            {
                "seconds": seconds,
                "base": base,
                "peak": max(base, peak()),
                "bytes": sum(entry.bytes for entry in run.manifest.shards),
            }
        ),
        flush=True,
    )


MEASUREMENTS = {"throughput": throughput, "memory": memory, "processes": processes}


def main() -> None:
    """Parse the command line, measure and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "measurements", nargs="+", choices=[*MEASUREMENTS, "worker"], metavar="WHAT"
    )
    parser.add_argument("--out", help="JSON file for the results (for a worker: the store)")
    parser.add_argument("--model", default="basic_cnn")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="threads of a worker")
    parser.add_argument("--scratch", help="folder for the stores (default: a temporary folder)")
    options = parser.parse_args()
    if options.measurements == ["worker"]:
        worker(options)
        return
    found: dict[str, Any] = {name: MEASUREMENTS[name](options) for name in options.measurements}
    found["machine"] = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "versions": versions(),
        "commit": commit(),
    }
    if options.out:
        write_whole(Path(options.out), json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
