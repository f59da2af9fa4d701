"""What the GPU check runs once the package is built: tests, compute-sanitizer, benchmarks.

Operators' tests run in a process a file, those of the riskiest kernels first: after one illegal
access every later call in a process fails.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu_build import searching
from stages import Stage

ENGINE = ("conformance", "engine", "sign")  # folders of tests that take the longest
FAMILIES = "test_families_gpu"  # of them, the file that needs a part of its own
ALONE = ("test_blocks_gpu", "test_onchip_gpu")  # and those that launch the riskiest kernels
# Kernels with shared memory: racecheck's.
SHARED = ("inverted_residual", "onchip", "stem_update", "sign_update")
RISKIEST = (*SHARED, "depthwise", "max_pool")  # the order of the operators' tests; others follow
SANITIZER_CASES = 8  # tests of a file that run under compute-sanitizer
SLOW_BENCHMARKS = ("test_iterative_sign",)  # minutes of torch.compile; the table of peers has it
# Seconds after which no further benchmark is started: a process for each of these, one for others.
MEASURING = {"test_onchip": 60, "test_inverted_residual": 90}
MEASURING_OTHERS = 200


def gpu_tests(folder: Path) -> list[str]:
    """The test files that hold GPU tests.

    Only these are collected: the others may import parts of the harness (the command line, the
    report) whose libraries a GPU machine without network need not have.
    """
    files = sorted(folder.rglob("test_*.py"))
    return [str(file) for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]


def riskiest_first(files: Sequence[str]) -> list[str]:
    """Operators' test files in the order of RISKIEST, the others after them."""

    def place(file: str) -> int:
        stem = Path(file).stem
        return next((i for i, name in enumerate(RISKIEST) if name in stem), len(RISKIEST))

    return sorted(files, key=lambda file: (place(file), file))


def find_sanitizer() -> str | None:
    """Where compute-sanitizer is: on the PATH or in a toolkit."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def watched(sanitizer: str, tool: str) -> list[str]:
    """The words before a command, under which one of the sanitizer's tools watches our kernels."""
    watch = [sanitizer, "--tool", tool, "--kernel-regex", "kns=sign_ext"]
    watch += ["--report-api-errors", "no", "--error-exitcode", "86"]
    return [*watch, "--target-processes", "all"]


def no_sanitizing(output: str) -> str | None:
    """Why compute-sanitizer could not watch this GPU at all, as some virtual machines refuse it."""
    refused = "Device not supported" in output
    return "compute-sanitizer refuses this GPU: Device not supported" if refused else None


def plan(root: Path, work: Path, home: Path, *, on_gpu: bool) -> list[Stage]:
    """The stages, in order.

    Args:
        root: The checkout.
        work: A temporary folder, for what is built from and what benchmarks write.
        home: Where the package is built (`gpu_build.build_folder`).
        on_gpu: False exercises every stage on the CPU, small, to try the check itself.

    Returns:
        The stages; one that cannot run here has an empty command and says why.
    """
    # Tests come from the checkout but run elsewhere, so that sign_ext is the one just built.
    pytest = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml")]
    pytest += ["--rootdir", str(root), "-p", "no:cacheprovider", "-q", "-ra"]
    pytest += ["--tb=short", "--maxfail=40", "--durations=25"]
    found = gpu_tests(root / "python_tests")
    operators = riskiest_first([file for file in found if Path(file).parent.name == "ops"])
    return [
        *tests(root, found, operators, pytest, searching(home), on_gpu=on_gpu),
        *sanitize(operators, pytest, searching(home), on_gpu=on_gpu),
        *measure(root, work, pytest, searching(home), on_gpu=on_gpu),
    ]


def tests(
    root: Path,
    found: Sequence[str],
    operators: Sequence[str],
    pytest: Sequence[str],
    search: dict[str, str],
    *,
    on_gpu: bool,
) -> list[Stage]:
    """The stages of tests: a process for each operators' file, a few for all others."""

    def stage(name: str, files: Sequence[str], limit: float) -> Stage:
        command = [*pytest, "-m", "gpu", *files] if files else []
        return Stage(name, command, limit, search, reason="no such test is marked gpu")

    engine = [file for file in found if Path(file).parent.name in ENGINE]
    families = [file for file in engine if Path(file).stem == FAMILIES]
    alone = [file for file in engine if Path(file).stem in ALONE]
    # With a GPU a checkout that has no GPU test at all fails here: pytest collects nothing.
    others = [file for file in found if file not in engine and file not in operators]
    others = others if found or not on_gpu else [str(root / "python_tests")]
    return [
        *(stage(f"gpu tests: {Path(file).stem}", [file], 120) for file in operators),
        stage("gpu tests: all others", others, 150),
        stage("engine tests", [f for f in engine if f not in [*families, *alone]], 300),
        *(stage(f"engine tests: {Path(file).stem}", [file], 150) for file in alone),
        stage("family tests", families, 400),
    ]


def sanitize(
    operators: Sequence[str], pytest: Sequence[str], search: dict[str, str], *, on_gpu: bool
) -> list[Stage]:
    """The operators' tests under compute-sanitizer: our kernels alone, a few tests of each file."""
    sanitizer = find_sanitizer()
    reason = "compute-sanitizer is not installed" if on_gpu else "there is no GPU"
    shared = [file for file in operators if any(name in Path(file).stem for name in SHARED)]
    # One allocation a tensor: inside the caching allocator's blocks a stray access hides.
    environ = {**search, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environ |= {"HYPOTHESIS_PROFILE": "sanitizer", "SANITIZER_CASES": str(SANITIZER_CASES)}

    def stage(tool: str, what: str, files: Sequence[str], limit: float) -> Stage:
        name = f"compute-sanitizer {tool}: {what}"
        if not (on_gpu and sanitizer and files):
            return Stage(name, (), 0, reason=reason if files else "no such operator test on GPU")
        command = [*watched(sanitizer, tool), *pytest, "-m", "gpu", *files]
        return Stage(name, command, limit, environ, "", no_sanitizing)

    return [
        *(
            stage(tool, Path(file).stem, [file], 70)
            for tool in ("memcheck", "racecheck")
            for file in shared
        ),
        stage("memcheck", "all others", [file for file in operators if file not in shared], 150),
    ]


def benchmarks(root: Path) -> list[str]:
    """The benchmark files to run, in order: MEASURING's, the other operators', what is left."""

    def place(file: Path) -> int:
        if file.stem in MEASURING:
            return list(MEASURING).index(file.stem)
        name = file.stem.removeprefix("test_")
        operator = any((root / "csrc").glob(f"*/{name}.h"))
        return len(MEASURING) + (0 if operator else 1)

    files = [f for f in (root / "benchmarks").glob("test_*.py") if f.stem not in SLOW_BENCHMARKS]
    return [str(file) for file in sorted(files, key=lambda file: (place(file), file))]


def measure(
    root: Path, work: Path, pytest: Sequence[str], search: dict[str, str], *, on_gpu: bool
) -> list[Stage]:
    """The stages of benchmarks; each writes bench-raw-NAME.json in the folder `work`."""

    def stage(name: str, files: Sequence[str], seconds: float) -> Stage:
        command = [
            *pytest,
            "-p",
            "whole_benchmarks",
            *files,
            "--device",
            "cuda" if on_gpu else "cpu",
        ]
        command += [f"--benchmark-json={work / f'bench-raw-{name}.json'}"]
        command += ["--benchmark-columns=median,rounds"]
        command += [] if on_gpu else ["--benchmark-disable"]
        # The plugin is beside this file.
        path = os.pathsep.join([search["PYTHONPATH"], str(Path(__file__).parent)])
        environ = {**search, "PYTHONPATH": path, "BENCH_SECONDS": str(seconds)}
        return Stage(f"benchmarks: {name}", command, seconds + 60, environ)

    files = benchmarks(root)
    first = [file for file in files if Path(file).stem in MEASURING]
    others = [file for file in files if file not in first]
    stages = [stage(Path(file).stem, [file], MEASURING[Path(file).stem]) for file in first]
    return stages + ([stage("others", others, MEASURING_OTHERS)] if others else [])
