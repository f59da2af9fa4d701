"""A process that runs `sign-ext reproduce`, then forks runs of it and kills them.

    python killed_reproduce.py SCALE WHOLE

It says "0" when its own run, into the folder WHOLE, has ended. Then it reads lines "FOLDER STAGES
SECONDS", and answers each with the exit status of a run into that folder, as
`os.waitstatus_to_exitcode` gives it: the run is killed so many seconds after it has begun so many
stages. Everything is imported once, so a run takes no start-up.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import torch

from sign_ext.cli import main


def serve(scale: str, whole: str) -> None:
    """Run once, then fork a run for each line."""
    # One thread from the start: a pool of them would not survive the fork.
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the command prints is none of the answers

    def run(out: str) -> int:
        names = ["table1", "delta_only"]
        return main(["reproduce", *names, "--scale", scale, "--out", out, "--device", "cpu"])

    print(run(whole), file=answers, flush=True)
    for line in sys.stdin:
        out, stages, seconds = line.split()
        child = os.fork()
        if child == 0:
            os._exit(run(out))
        artefacts = Path(out, "artefacts")
        ended = 0
        while not ended and not (
            artefacts.is_dir() and len(list(artefacts.iterdir())) >= int(stages)
        ):
            time.sleep(0.01)
            ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    serve(*sys.argv[1:])
