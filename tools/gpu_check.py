"""`make gpu-check`: build, test, sanitize and measure on a machine with an NVIDIA GPU.

It needs no network and no virtual environment. The Python that runs it must have torch, numpy,
pytest, pytest-benchmark and hypothesis; building also needs pip or setuptools, pybind11, ninja and
a CUDA toolkit. Nothing is installed into that Python: the package goes to a folder under build/,
which later calls reuse while the sources, torch and the GPU model stay the same. The check ends
with a short table and writes gpu_check.json, and gpu_check.log with all output. A stage that
exceeds its time limit is interrupted with SIGINT, so that it can report, and killed 20 s later.

The whole check takes about 30 minutes. If a command may run for ten minutes at most, run it in
parts. Each part first builds the package if needed (gpu_package.py builds it in advance, without a
GPU) and writes gpu_check_PART.json after each stage:

  first     the most important facts in under nine minutes, each written to first.jsonl at once (see
            gpu_first.py); start with it on a new machine; runs only if named
  correct   GPU tests of operators (one process per file), stores, training
  engine    GPU tests of the engine against float64, graphs, memory
  families  GPU tests of the engine on every family of networks, on the twenty networks that the
            engine is measured on, and on every kind of operation, each in a captured graph
  sanitize  compute-sanitizer on our kernels, a few tests per operator; racecheck on those that use
            shared memory
  measure   benchmarks: test_onchip and test_inverted_residual, the other operators, then the rest
            but test_iterative_sign, whose contenders take minutes to compile (see peers)
  peers     fills peers_gpu.json, the peer table; call it until it prints "nothing left"; runs only
            if named
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import bench_table
import gpu_first
import stages
from files import write_whole
from gpu_build import build_folder, ensure_package, import_environ
from gpu_plan import plan
from stages import Stage

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 2100.0  # limit for all stages together
PART_SECONDS = 540.0  # limit for one part: under 10 minutes including start and report
PEER_SECONDS = 300  # no further cell of the peer table is started after this
PEERS = "peers_gpu.json"
FIRST = "first"
# Part → the prefix of its stages' names.
PARTS = {
    "correct": ("gpu tests",),
    "engine": ("engine tests",),
    "families": ("family tests",),
    "sanitize": ("compute-sanitizer",),
    "measure": ("benchmarks",),
    "peers": ("peer table",),
}

PROBE = """
import json, sys, sysconfig
facts = {"python": sys.version.split()[0], "abi": sysconfig.get_config_var("SOABI")}
try:
    import torch
except ImportError as error:
    facts["problem"] = f"this Python has no torch ({sys.executable}: {error})"
else:
    facts |= {"torch": torch.__version__, "cuda": torch.version.cuda, "gpu": None}
    if torch.version.cuda is None:
        facts["problem"] = f"torch {torch.__version__} is built without CUDA"
    elif not torch.cuda.is_available():
        facts["problem"] = "torch sees no NVIDIA GPU on this machine"
    else:
        chip = torch.cuda.get_device_properties(0)
        facts |= {"gpu": chip.name, "capability": f"{chip.major}.{chip.minor}",
                  "multiprocessors": chip.multi_processor_count, "memory": chip.total_memory}
print(json.dumps(facts))
"""


def probe(python: str = sys.executable) -> dict[str, Any]:
    """Facts about a Python, its torch and its GPU; "problem" says what prevents the check."""
    # In a separate process: a hanging driver must not block the check, nor the probe hold GPU
    # memory.
    try:
        result = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=120)
        facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        return {"problem": f"torch does not import in {python} ({error})"}
    facts["driver"] = first_line(
        "nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"
    )
    return facts


def first_line(*command: str, folder: Path | None = None) -> str | None:
    """The first line of a command's output, or None if it is missing or fails."""
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.partition("\n")[0].strip() or None


def peer_table(root: Path, home: Path, out: Path, *, on_gpu: bool) -> Stage:
    """The stage that continues the peer table.

    Args:
        root: The checkout, whose benchmarks/results may contain the cells of earlier calls.
        home: Folder of the built package.
        out: Folder of the table.
        on_gpu: False runs two contenders on the CPU, as a test.
    """
    command = [sys.executable, str(root / "benchmarks" / "peer_table.py"), "--out"]
    command += [str(out / PEERS), "--start", str(root / "benchmarks" / "results" / PEERS)]
    command += ["--seconds", str(PEER_SECONDS), "--device", "cuda" if on_gpu else "cpu"]
    if not on_gpu:
        command += ["--networks", "basic_cnn", "--images", "2", "--steps", "1"]
        command += ["--contenders", "naive .backward()", "sign_ext autograd"]
    return Stage("peer table", command, PART_SECONDS, import_environ(home))


def stages_of_part(todo: list[Stage], part: str | None) -> list[Stage]:
    """The stages of one part, or all stages for None."""
    return todo if part is None else [one for one in todo if one.name.startswith(PARTS[part])]


def merge_benchmarks(folder: Path) -> dict[str, Any] | None:
    """Merge the benchmarks' JSON files into one, oldest first; None if there is none."""
    files = sorted(folder.glob("bench-raw-*.json"), key=lambda file: file.stat().st_mtime)
    raws = [json.loads(file.read_text(encoding="utf-8")) for file in files if file.stat().st_size]
    if not raws:
        return None
    return {**raws[0], "benchmarks": [one for raw in raws for one in raw["benchmarks"]]}


def report(file: Path, outcomes: list[stages.Outcome], facts: dict[str, Any], work: Path) -> str:
    """Write the JSON and return the summary that is printed at the end."""
    text = stages.table(outcomes)
    races: list[Any] = []
    raw = merge_benchmarks(work)
    if raw:
        measured = bench_table.condense(raw)
        races = measured["races"]
        if races:
            text = bench_table.table({**measured, "commit": facts["commit"]}) + "\n\n" + text
    result = {
        "command": "make gpu-check",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **facts,
        "passed": stages.succeeded(outcomes),
        "stages": [outcome.to_dict() for outcome in outcomes],
        "benchmarks": races,
    }
    write_whole(file, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return text


def check(
    root: Path, out: Path, *, allow_cpu: bool, seconds: float | None, part: str | None = None
) -> int:
    """Run the check, or one part of it, and return the exit status: 0 if nothing failed."""
    started = time.monotonic()
    facts = probe()
    problem = facts.pop("problem", None)
    if problem and not (allow_cpu and "torch" in facts):
        print(f"gpu-check: {problem}, so nothing was checked.", file=sys.stderr)
        return 2
    facts["commit"] = first_line("git", "rev-parse", "HEAD", folder=root) or "unknown"
    facts["uncommitted_changes"] = bool(first_line("git", "status", "--porcelain", folder=root))
    out.mkdir(parents=True, exist_ok=True)
    if part == FIRST:
        return gpu_first.check(
            root, out, facts, on_gpu=not problem, started=started, seconds=seconds
        )
    name = f"gpu_check_{part}" if part else "gpu_check"
    file, log = out / f"{name}.json", out / f"{name}.log"
    log.write_text("", encoding="utf-8")
    deadline = time.monotonic() + (seconds or (PART_SECONDS if part else SECONDS))
    with tempfile.TemporaryDirectory(prefix="sign-ext-gpu-check-") as folder:
        work = Path(folder).resolve()
        home = build_folder(root, facts, on_gpu=not problem)
        done = ensure_package(root, work, home, on_gpu=not problem, deadline=deadline, log=log)
        todo = plan(root, work, home, on_gpu=not problem)
        if part == "peers":
            todo.append(peer_table(root, home, out, on_gpu=not problem))

        def write(outcomes: list[stages.Outcome]) -> str:
            return report(file, [*done, *outcomes], facts, work)

        text = write([])
        left = deadline - time.monotonic()
        outcomes = stages.run_all(
            stages_of_part(todo, part), seconds=left, folder=work, log=log, after=write
        )
        text = write(outcomes)
    where = facts.get("gpu") or "no GPU: the stages only ran on the CPU, as a test"
    print(f"\n{text}\n{where}; driver {facts['driver']}; torch {facts['torch']}")
    print(f"written: {file} and {log}")
    return 0 if stages.succeeded([*done, *outcomes]) else 1


def main() -> None:
    """Parse the command line, run the check and exit."""
    parser = argparse.ArgumentParser(
        prog="gpu-check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = os.environ.get("OUT") or "benchmarks/results"
    parser.add_argument("--out", type=Path, default=Path(default), help="folder for the JSON files")
    parser.add_argument("--part", choices=[FIRST, *PARTS], help="run one part, in under 10 minutes")
    parser.add_argument("--seconds", type=float, help="time limit for all stages")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to check")
    parser.add_argument(
        "--allow-cpu",
        action="store_true",
        help="without a GPU, run the stages on the CPU as a test",
    )
    options = parser.parse_args()
    root, out = options.root.resolve(), options.out.resolve()
    sys.exit(
        check(root, out, allow_cpu=options.allow_cpu, seconds=options.seconds, part=options.part)
    )


if __name__ == "__main__":
    main()
