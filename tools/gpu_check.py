"""`make gpu-check`: build, test, sanitize and measure on a machine with an NVIDIA GPU.

Works without a network and without a virtual environment, in the Python that runs it, which must
hold torch, numpy, pytest, pytest-benchmark and hypothesis, and to build: pip or setuptools,
pybind11, ninja and a CUDA toolkit. Nothing is installed there: the package goes to a temporary
folder. Ends with a short table; writes gpu_check.json, and gpu_check.log with all output.

Everything takes about 20 minutes. Where a command may run for ten at most, take it in parts:
`--part correct`, `--part engine`, `--part sanitize` and `--part measure`, which build first and
write gpu_check_PART.json. `--part peers` is no part of everything: it fills peers_gpu.json, the
table of peers, and is called until it says "nothing left".
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import bench_table
import stages
from files import write_whole
from stages import Stage

ROOT = Path(__file__).resolve().parent.parent
SECONDS = 1500.0  # all stages together
PART_SECONDS = 540.0  # the stages of one part: under 10 minutes with the start and the report
MEASURING = 240  # seconds after which no further benchmark is started
PEER_SECONDS = 300  # seconds after which no further cell of the table of peers is begun
ENGINE = ("conformance", "engine", "sign")  # folders of tests that take the longest
PEERS = "peers_gpu.json"
PARTS = {
    "correct": ("gpu tests",),
    "engine": ("engine tests",),
    "sanitize": ("compute-sanitizer memcheck", "compute-sanitizer racecheck"),
    "measure": ("benchmarks",),
    "peers": ("peer table",),
}
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__", ".*_cache"
)

PROBE = """
import json, sys
facts = {"python": sys.version.split()[0]}
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

IMPORT = """
import sys, sign_ext
config = sign_ext.build_config()
home, cuda = sys.argv[1], sys.argv[2] == "cuda"
assert sign_ext.__file__.startswith(home), f"imported from {sign_ext.__file__}, not from {home}"
assert not cuda or config["cuda"], f"built without CUDA: {config}"
print(", ".join(f"{key} {value}" for key, value in config.items()))
"""


def probe() -> dict[str, Any]:
    """Facts on this Python, its torch and its GPU; "problem" says in words what is in the way."""
    # In a process of its own: a driver that hangs must not hang the check, nor hold GPU memory.
    try:
        result = subprocess.run(
            [sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=120
        )
        facts: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    except (subprocess.TimeoutExpired, IndexError, ValueError) as error:
        return {"problem": f"torch does not import in {sys.executable} ({error})"}
    facts["driver"] = words("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return facts


def words(*command: str, folder: Path | None = None) -> str | None:
    """The first line that a command prints, or None where it is absent or fails."""
    try:
        result = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.partition("\n")[0].strip() or None


def has_module(name: str) -> bool:
    """Whether the Python in use can run `python -m name`."""
    command = [sys.executable, "-m", name, "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def gpu_tests(folder: Path) -> list[str]:
    """The test files that hold GPU tests.

    Only these are collected: the others may import parts of the harness (the command line, the
    report) whose libraries a GPU machine without network need not have.
    """
    files = sorted(folder.rglob("test_*.py"))
    return [str(file) for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]


def find_sanitizer() -> str | None:
    """Where compute-sanitizer is: on the PATH or in a toolkit."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def no_sanitizing(output: str) -> str | None:
    """Why compute-sanitizer could not watch this GPU at all, as some virtual machines refuse it."""
    refused = "Device not supported" in output
    return "compute-sanitizer refuses this GPU: Device not supported" if refused else None


def plan(root: Path, work: Path, *, on_gpu: bool) -> list[Stage]:
    """The stages, in order.

    Args:
        root: The checkout.
        work: A temporary folder; the package is built in and installed under it.
        on_gpu: False exercises every stage on the CPU, small, to try the check itself.

    Returns:
        The stages; one that cannot run here has an empty command and says why.
    """
    site, source, python = work / "site", work / "source", sys.executable
    search = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    build = {"SIGN_EXT_BUILD": "cuda" if on_gpu else "none"}
    # ninja and friends stand beside the interpreter, which need not be on the PATH.
    build["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    if has_module("pip"):
        install = [python, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
        install += ["--no-index", "--disable-pip-version-check", "-v"]
        install += ["--target", str(site), str(source)]
    else:
        script = "import os, sys; os.chdir(sys.argv[1]); sys.argv[1:] = ['build', '--build-lib', "
        script += "sys.argv[2]]; sys.path.insert(0, ''); exec(open('setup.py').read())"
        install = [python, "-c", script, str(source), str(site)]

    # Tests come from the checkout but run elsewhere, so that sign_ext is the one just built.
    pytest = [python, "-m", "pytest", "-c", str(root / "pyproject.toml"), "--rootdir", str(root)]
    pytest += ["-p", "no:cacheprovider", "-q", "-ra"]
    found = gpu_tests(root / "python_tests")
    operators = [file for file in found if Path(file).parent.name == "ops"]
    device = "cuda" if on_gpu else "cpu"

    def sanitize(tool: str) -> Stage:
        name, sanitizer = f"compute-sanitizer {tool}", find_sanitizer()
        if not (on_gpu and sanitizer and operators):
            reason = "there is no GPU" if not on_gpu else "compute-sanitizer is not installed"
            return Stage(name, (), 0, reason=reason if operators else "no operator tests on GPU")
        watch = [sanitizer, "--tool", tool, "--error-exitcode", "86", "--target-processes", "all"]
        environ = {**search, "HYPOTHESIS_PROFILE": "sanitizer"}
        # One allocation a tensor: inside the caching allocator's blocks a stray access hides.
        environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        command = [*watch, *pytest, "-m", "gpu", *operators]
        return Stage(name, command, 160, environ, excuse=no_sanitizing)

    measure = [*pytest, str(root / "benchmarks"), "--device", device]
    measure += [f"--benchmark-json={work / 'bench-raw.json'}", "--benchmark-columns=median,rounds"]
    if not on_gpu:
        measure += ["--benchmark-disable"]
    engine = [file for file in found if Path(file).parent.name in ENGINE]
    # With a GPU a checkout that has no GPU test at all fails here: pytest collects nothing.
    everything = [] if found or not on_gpu else [str(root / "python_tests")]
    files = [file for file in found if file not in engine] or everything

    def tests(files: list[str]) -> list[str]:
        return [*pytest, "-m", "gpu", *files] if files else []

    paced = {**search, "BENCH_SECONDS": str(MEASURING)}
    return [
        Stage("build", install, 200, build),
        Stage("import", [python, "-c", IMPORT, str(site), device], 60, search),
        Stage("gpu tests", tests(files), 240, search, reason="no test is marked gpu"),
        Stage("engine tests", tests(engine), 330, search, reason="no such test is marked gpu"),
        sanitize("memcheck"),
        sanitize("racecheck"),
        Stage("benchmarks", measure, MEASURING + 90, paced),
    ]


def peer_table(root: Path, work: Path, out: Path, *, on_gpu: bool) -> Stage:
    """The stage that goes on with the table of peers.

    Args:
        root: The checkout, whose benchmarks/results may hold the cells of earlier calls.
        work: As in `plan`.
        out: Where the table is, or goes.
        on_gpu: False tries two contenders out on the CPU.
    """
    command = [sys.executable, str(root / "benchmarks" / "peer_table.py"), "--out"]
    command += [str(out / PEERS), "--start", str(root / "benchmarks" / "results" / PEERS)]
    command += ["--seconds", str(PEER_SECONDS), "--device", "cuda" if on_gpu else "cpu"]
    if not on_gpu:
        command += ["--networks", "basic_cnn", "--images", "2", "--steps", "1"]
        command += ["--contenders", "naive .backward()", "sign_ext autograd"]
    search = {"PYTHONPATH": str(work / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
    return Stage("peer table", command, PART_SECONDS, search)


def of_part(todo: list[Stage], part: str | None) -> list[Stage]:
    """The stages of one part, with the build that it needs; all of them for None."""
    if part is None:
        return todo
    return [stage for stage in todo if stage.name in ("build", "import", *PARTS[part])]


def report(file: Path, outcomes: list[stages.Outcome], facts: dict[str, Any], raw: Path) -> str:
    """Write the JSON and return the text that closes the run."""
    text = stages.table(outcomes)
    races: list[Any] = []
    if raw.exists() and raw.stat().st_size:
        measured = bench_table.condense(json.loads(raw.read_text(encoding="utf-8")))
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
    """Run the whole check and return the exit status: 0 when nothing failed."""
    facts = probe()
    problem = facts.pop("problem", None)
    if problem and not (allow_cpu and "torch" in facts):
        print(f"gpu-check: {problem}, so nothing was checked.", file=sys.stderr)
        return 2
    facts["commit"] = words("git", "rev-parse", "HEAD", folder=root) or "unknown"
    facts["uncommitted_changes"] = bool(words("git", "status", "--porcelain", folder=root))
    out.mkdir(parents=True, exist_ok=True)
    name = f"gpu_check_{part}" if part else "gpu_check"
    file, log = out / f"{name}.json", out / f"{name}.log"
    log.write_text("", encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="sign-ext-gpu-check-") as folder:
        work = Path(folder).resolve()
        shutil.copytree(root, work / "source", ignore=NOT_COPIED)
        todo = plan(root, work, on_gpu=not problem)
        if part == "peers":
            todo.append(peer_table(root, work, out, on_gpu=not problem))
        todo = of_part(todo, part)
        seconds = seconds or (PART_SECONDS if part else SECONDS)
        outcomes = stages.run_all(todo, seconds=seconds, folder=work, log=log)
        text = report(file, outcomes, facts, work / "bench-raw.json")
    where = facts.get("gpu") or "no GPU: the stages were only tried out on the CPU"
    print(f"\n{text}\n{where}; driver {facts['driver']}; torch {facts['torch']}")
    print(f"written: {file} and {log}")
    return 0 if stages.succeeded(outcomes) else 1


def main() -> None:
    """Read the command line, run, exit."""
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    default = os.environ.get("OUT") or "benchmarks/results"
    parser.add_argument("--out", type=Path, default=Path(default), help="folder for the JSON")
    parser.add_argument("--part", choices=PARTS, help="one part of it, under 10 minutes")
    parser.add_argument("--seconds", type=float, help="time for all stages")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to check")
    parser.add_argument(
        "--allow-cpu", action="store_true", help="without a GPU, try the stages out on the CPU"
    )
    options = parser.parse_args()
    root, out = options.root.resolve(), options.out.resolve()
    sys.exit(
        check(root, out, allow_cpu=options.allow_cpu, seconds=options.seconds, part=options.part)
    )


if __name__ == "__main__":
    main()
