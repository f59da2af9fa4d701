"""The stages that the GPU check runs after the build: tests, compute-sanitizer, benchmarks.

Each file of operator tests runs in its own process, the riskiest kernels first, because after one
illegal access every later CUDA call in the process fails.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from gpu_build import import_environ
from stages import Stage

ENGINE = ("conformance", "engine", "sign")  # test folders that take the longest
# Each network family, the twenty networks, and each kind of operation: they run as a part of their
# own, with the seconds that each may take.
FAMILIES = {"test_families_gpu": 270, "test_ops_gpu": 130, "test_twenty_gpu": 120}
ALONE = ("test_blocks_gpu", "test_onchip_gpu")  # launch the riskiest kernels: own process each
# Kernels that use shared memory, which racecheck checks.
SHARED = ("inverted_residual", "onchip", "stem_update", "sign_update", "gate")
RISKIEST = (*SHARED, "depthwise", "max_pool")  # run in this order, the others after them
SANITIZER_CASES = 8  # tests per file under compute-sanitizer
SLOW_BENCHMARKS = ("test_iterative_sign",)  # torch.compile takes minutes; the peer table has it
# No benchmark starts after this many seconds. Each of these files has its own process, the others
# share one.
BENCHMARK_SECONDS = {"test_onchip": 60, "test_inverted_residual": 90}
OTHER_BENCHMARKS_SECONDS = 200


def gpu_tests(folder: Path) -> list[str]:
    """The test files that contain GPU tests.

    Only these are collected, because the others may import parts of the harness (the command line,
    the report) whose libraries are often missing on a GPU machine without network.
    """
    files = sorted(folder.rglob("test_*.py"))
    return [str(file) for file in files if "mark.gpu" in file.read_text(encoding="utf-8")]


def riskiest_first(files: Sequence[str]) -> list[str]:
    """Sort the operators' test files in the order of RISKIEST, the others after them."""

    def rank(file: str) -> int:
        stem = Path(file).stem
        return next((i for i, name in enumerate(RISKIEST) if name in stem), len(RISKIEST))

    return sorted(files, key=lambda file: (rank(file), file))


def find_sanitizer() -> str | None:
    """The path of compute-sanitizer, looked up on PATH and in the CUDA toolkit."""
    homes = [os.environ.get("CUDA_HOME", ""), "/usr/local/cuda"]
    places = [os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes if home)]
    return shutil.which("compute-sanitizer", path=os.pathsep.join(places))


def sanitizer_command(sanitizer: str, tool: str) -> list[str]:
    """The command prefix that runs a tool of compute-sanitizer on our kernels only."""
    watch = [sanitizer, "--tool", tool, "--kernel-regex", "kns=sign_ext"]
    watch += ["--report-api-errors", "no", "--error-exitcode", "86"]
    return [*watch, "--target-processes", "all"]


def refusal_of_gpu(output: str) -> str | None:
    """The reason if compute-sanitizer does not support this GPU, as on some virtual machines."""
    refused = "Device not supported" in output
    return "compute-sanitizer refuses this GPU: Device not supported" if refused else None


def plan(root: Path, work: Path, home: Path, *, on_gpu: bool) -> list[Stage]:
    """The stages, in order.

    Args:
        root: The checkout.
        work: A temporary folder for the sources and the benchmarks' output.
        home: Where the package is built (`gpu_build.build_folder`).
        on_gpu: False runs every stage at a small size on the CPU, to test the check itself.

    Returns:
        The stages. One that cannot run here has an empty command and a reason.
    """
    # Tests come from the checkout but run in another folder, so that they import the built package.
    pytest = [sys.executable, "-m", "pytest", "-c", str(root / "pyproject.toml")]
    pytest += ["--rootdir", str(root), "-p", "no:cacheprovider", "-q", "-ra"]
    pytest += ["--tb=short", "--maxfail=40", "--durations=25"]
    found = gpu_tests(root / "python_tests")
    operators = riskiest_first([file for file in found if Path(file).parent.name == "ops"])
    return [
        *tests(root, found, operators, pytest, import_environ(home), on_gpu=on_gpu),
        *sanitize(operators, pytest, import_environ(home), on_gpu=on_gpu),
        *measure(root, work, pytest, import_environ(home), on_gpu=on_gpu),
    ]


def tests(
    root: Path,
    found: Sequence[str],
    operators: Sequence[str],
    pytest: Sequence[str],
    environ: dict[str, str],
    *,
    on_gpu: bool,
) -> list[Stage]:
    """The test stages: one process per operator test file, a few for all others."""

    def stage(name: str, files: Sequence[str], limit: float) -> Stage:
        command = [*pytest, "-m", "gpu", *files] if files else []
        return Stage(name, command, limit, environ, reason="no such test is marked gpu")

    engine = [file for file in found if Path(file).parent.name in ENGINE]
    families = [file for file in engine if Path(file).stem in FAMILIES]
    alone = [file for file in engine if Path(file).stem in ALONE]
    # On a GPU, a checkout without any GPU test must fail: pytest collects nothing and exits with 5.
    others = [file for file in found if file not in engine and file not in operators]
    others = others if found or not on_gpu else [str(root / "python_tests")]
    return [
        *(stage(f"gpu tests: {Path(file).stem}", [file], 120) for file in operators),
        stage("gpu tests: all others", others, 150),
        stage("engine tests", [f for f in engine if f not in [*families, *alone]], 300),
        *(stage(f"engine tests: {Path(file).stem}", [file], 150) for file in alone),
        *(
            stage(f"family tests: {(name := Path(file).stem)}", [file], FAMILIES[name])
            for file in families
        ),
    ]


def sanitize(
    operators: Sequence[str], pytest: Sequence[str], environ: dict[str, str], *, on_gpu: bool
) -> list[Stage]:
    """The operators' tests under compute-sanitizer: our kernels only, a few tests per file."""
    sanitizer = find_sanitizer()
    reason = "compute-sanitizer is not installed" if on_gpu else "there is no GPU"
    shared = [file for file in operators if any(name in Path(file).stem for name in SHARED)]
    # One allocation per tensor: inside a block of the caching allocator a stray access stays
    # hidden.
    environ = {**environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    environ |= {"HYPOTHESIS_PROFILE": "sanitizer", "SANITIZER_CASES": str(SANITIZER_CASES)}

    def stage(tool: str, title: str, files: Sequence[str], limit: float) -> Stage:
        name = f"compute-sanitizer {tool}: {title}"
        if not (on_gpu and sanitizer and files):
            return Stage(name, (), 0, reason=reason if files else "no such operator test on GPU")
        command = [*sanitizer_command(sanitizer, tool), *pytest, "-m", "gpu", *files]
        return Stage(name, command, limit, environ, "", refusal_of_gpu)

    return [
        *(
            stage(tool, Path(file).stem, [file], 70)
            for tool in ("memcheck", "racecheck")
            for file in shared
        ),
        stage("memcheck", "all others", [file for file in operators if file not in shared], 150),
    ]


def benchmarks(root: Path) -> list[str]:
    """The benchmark files in order: those of BENCHMARK_SECONDS, other operators, the rest."""

    def rank(file: Path) -> int:
        if file.stem in BENCHMARK_SECONDS:
            return list(BENCHMARK_SECONDS).index(file.stem)
        name = file.stem.removeprefix("test_")
        operator = any((root / "csrc").glob(f"*/{name}.h"))
        return len(BENCHMARK_SECONDS) + (0 if operator else 1)

    files = [f for f in (root / "benchmarks").glob("test_*.py") if f.stem not in SLOW_BENCHMARKS]
    return [str(file) for file in sorted(files, key=lambda file: (rank(file), file))]


def measure(
    root: Path, work: Path, pytest: Sequence[str], environ: dict[str, str], *, on_gpu: bool
) -> list[Stage]:
    """The benchmark stages; each writes bench-raw-NAME.json to the folder `work`."""

    def stage(name: str, files: Sequence[str], seconds: float) -> Stage:
        command = [
            *pytest,
            "-p",
            "finished_benchmarks",
            *files,
            "--device",
            "cuda" if on_gpu else "cpu",
        ]
        command += [f"--benchmark-json={work / f'bench-raw-{name}.json'}"]
        command += ["--benchmark-columns=median,rounds"]
        command += [] if on_gpu else ["--benchmark-disable"]
        # The plugin finished_benchmarks is in this folder.
        path = os.pathsep.join([environ["PYTHONPATH"], str(Path(__file__).parent)])
        variables = {**environ, "PYTHONPATH": path, "BENCH_SECONDS": str(seconds)}
        return Stage(f"benchmarks: {name}", command, seconds + 60, variables)

    files = benchmarks(root)
    first = [file for file in files if Path(file).stem in BENCHMARK_SECONDS]
    others = [file for file in files if file not in first]
    stages = [stage(Path(file).stem, [file], BENCHMARK_SECONDS[Path(file).stem]) for file in first]
    return stages + ([stage("others", others, OTHER_BENCHMARKS_SECONDS)] if others else [])
