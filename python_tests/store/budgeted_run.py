"""A transform of many images within a budget; prints its memory on stdout as JSON."""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from torch import nn

from sign_ext import SignTransform
from sign_ext.data import ImageSource
from sign_ext.store import transform_to_store
from sign_ext.store.budget import peak, reset_peak

COUNT, SHAPE = 6000, (3, 64, 64)
BALLAST = 2**27  # float64 numbers, 1 GiB: more than the transforms ever need


def read(start: int, stop: int) -> torch.Tensor:
    return torch.full((stop - start, *SHAPE), start % 256, dtype=torch.uint8)


def keys(start: int, stop: int) -> list[str]:
    return [str(position) for position in range(start, stop)]


def source(count: int) -> ImageSource:
    labels = np.zeros(count, dtype=np.int64)
    return ImageSource("same", labels, ("a",), SHAPE, "0" * 64, "", 0, read, keys)


def main(out: str) -> None:
    """Allocate and free much memory, transform once, then transform within the budget."""
    torch.set_num_threads(1)
    ballast = np.ones(BALLAST).nbytes
    reset_peak()
    resets = peak() < ballast
    np.ones(BALLAST).sum()  # allocated and freed after the reset
    convolution = nn.Conv2d(3, 4, 3)
    net = nn.Sequential(
        nn.AvgPool2d(8), convolution, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)
    ).eval()
    sign = SignTransform(net, 1, step_size=1e3, batch_size=64)
    # First for what is imported and compiled at first use: the budget is for the images.
    transform_to_store(sign, source(64), out + "-first")
    before = peak()
    budget = before + (200 << 20)
    run = transform_to_store(sign, source(COUNT), out, shard_size=500, memory=budget)
    result = {"before": before, "peak": max(before, peak()), "budget": budget, "resets": resets}
    result["stored"] = sum(entry.bytes for entry in run.manifest.shards)
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
