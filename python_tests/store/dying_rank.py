"""What torchrun starts in a test: rank 1 is killed at one of its images, unless it is a restart."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys

import torch
from store_parts import make_sign, make_source

from sign_ext.store import transform_to_store

source = make_source(60)


def read(start: int, stop: int) -> torch.Tensor:
    first_time = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if os.environ["RANK"] == "1" and first_time and start <= 37 < stop:
        os.kill(os.getpid(), signal.SIGKILL)
    return source.reader(start, stop)


transform_to_store(
    make_sign(), dataclasses.replace(source, reader=read), sys.argv[1], shard_size=5, readers=1
)
