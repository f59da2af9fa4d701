"""A process that forks runs and kills them: `python killed_run.py COUNT SHARD_SIZE`.

It reads lines "FOLDER SECONDS" ("never" for no kill) and answers each with the run's exit status,
as `os.waitstatus_to_exitcode` gives it. Everything is imported and computed once before the first
fork, so a run takes a fraction of a second, none of it start-up.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from store_parts import make_sign, make_source

from sign_ext.store import transform_to_store
from sign_ext.store.coordination import exclusive_lock


def hold_lock(out: Path, ready: Any) -> None:
    """Hold a store's lock until killed."""
    with exclusive_lock(out):
        ready.set()
        time.sleep(600)


def serve(count: int, shard_size: int) -> None:
    """Fork a run for each line, and kill it after its time."""
    # One thread from the start: a pool of them would not survive the fork.
    torch.set_num_threads(1)

    def run(out: str) -> None:
        transform_to_store(make_sign(), make_source(count), out, shard_size=shard_size)

    with tempfile.TemporaryDirectory() as folder:
        run(folder)
    print("ready", flush=True)
    for line in sys.stdin:
        out, seconds = line.split()
        child = os.fork()
        if child == 0:
            run(out)
            os._exit(0)
        if seconds != "never":
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
