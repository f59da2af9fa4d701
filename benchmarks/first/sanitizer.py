"""compute-sanitizer on the kernels with shared memory: three tools in parallel, a few cases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from common import NEEDS_GPU, begin, seconds_left
from facts import Facts
from gpu_plan import find_sanitizer, refusal_of_gpu, sanitizer_command

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("synccheck", "memcheck", "racecheck")
FILES = ("test_onchip", "test_inverted_residual_cuda", "test_stem_update_cuda")
CASES = 4
# Tests that compile an emulation or launch nothing would use up the few cases.
EXCLUDED = "not emulation and not refused and not checked and not cpus"
SPARE = 4.0  # seconds reserved before the end of this step


def command_of(tool: str, file: str, sanitizer: str) -> list[str]:
    """The command that runs a few tests of a file under a tool."""
    pytest = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-q", "-ra"]
    pytest += ["--rootdir", str(ROOT), "-p", "no:cacheprovider", "--tb=line", "-m", "gpu"]
    path = ROOT / "python_tests" / "ops" / f"{file}.py"
    return [*sanitizer_command(sanitizer, tool), *pytest, "-k", EXCLUDED, str(path)]


@dataclass
class Run:
    """One tool on one file of tests."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


def start_all(sanitizer: str, folder: Path) -> list[Run]:
    """Start all runs in parallel, those of the riskiest kernel first."""
    environ = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environ |= {"HYPOTHESIS_PROFILE": "sanitizer", "SANITIZER_CASES": str(CASES)}
    environ["PYTHONPATH"] = environ["PYTHONPATH"].partition(os.pathsep)[
        0
    ]  # the package's folder only
    runs = []
    for file in FILES:
        for tool in TOOLS:
            log = folder / f"{tool}-{file}"
            with log.open("wb") as output:
                process = subprocess.Popen(
                    command_of(tool, file, sanitizer),
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environ,
                )
            runs.append(Run(f"{tool}: {file}", process, log))
    return runs


def record(run: Run, facts: Facts, **values: object) -> None:
    """Record the outcome of a run; an interrupted or refused one is neither right nor wrong."""
    text, code = run.log.read_text(errors="replace"), run.process.poll()
    refused = refusal_of_gpu(text)
    if code is not None and not refused and not values["interrupted"]:
        values["right"] = code == 0
    end = refused or "\n".join(text.strip().splitlines()[-5:])[-600:]
    facts.record(run.name, **values, exit_status="none" if code is None else code, end=end)
    print(f"==== {run.name}\n{text[-6000:]}")


def watch(runs: list[Run], facts: Facts, limit: float) -> None:
    """Record each run when it ends; after `limit` seconds interrupt, then kill the rest."""
    began, interrupted = time.monotonic(), False
    while runs:
        spent = time.monotonic() - began
        if spent > limit and not interrupted:
            interrupted = True
            for run in runs:
                run.process.send_signal(signal.SIGINT)
        for run in list(runs):
            over = spent > limit + SPARE / 2
            if run.process.poll() is None and not over:
                continue
            record(run, facts, seconds=round(spent, 1), interrupted=interrupted)
            run.process.kill()
            runs.remove(run)
        time.sleep(0.1)


def main() -> None:
    """Run the tools if there is a GPU and compute-sanitizer."""
    device, facts = begin()
    sanitizer = find_sanitizer()
    if device.type != "cuda" or sanitizer is None:
        why = NEEDS_GPU if device.type != "cuda" else "skipped: compute-sanitizer is not installed"
        facts.record(
            "sanitizer", why=why, would_run=" ".join(command_of(TOOLS[0], FILES[0], "..."))
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        watch(start_all(sanitizer, Path(folder)), facts, seconds_left() - SPARE)


if __name__ == "__main__":
    main()
