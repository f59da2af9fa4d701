"""Compiles every .cu file and fails if a kernel spills registers.

Run `python -m build_tools.check_spills`. It reads the report of ptxas, so it needs nvcc, but no GPU
and no torch. Without nvcc it prints a note and passes. All warnings of nvcc are errors.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

# For `python build_tools/check_spills.py`.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_tools.decide import Missing
from build_tools.environment import cores, find_toolkit

CSRC = Path(__file__).resolve().parent.parent / "csrc"
ARCHES = ("sm_80", "sm_90")
# Kernels that may spill: part of the mangled name → why the spill is acceptable.
EXCEPTIONS: dict[str, str] = {}


@dataclass(frozen=True)
class Kernel:
    """ptxas's report on one kernel for one architecture."""

    name: str
    arch: str
    registers: int
    stack: int  # bytes per thread
    spilled: int  # bytes per thread, stores and loads


def parse_ptxas(report: str) -> list[Kernel]:
    """Parse the output of nvcc -Xptxas -v."""
    pattern = re.compile(
        r"Compiling entry function '(?P<name>\w+)' for '(?P<arch>\w+)'.*?"
        r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
        r"(?P<loads>\d+) bytes spill loads.*?Used (?P<registers>\d+) registers",
        re.DOTALL,
    )
    return [
        Kernel(
            match["name"],
            match["arch"],
            int(match["registers"]),
            int(match["stack"]),
            int(match["stores"]) + int(match["loads"]),
        )
        for match in pattern.finditer(report)
    ]


def offenders(kernels: list[Kernel], exceptions: dict[str, str]) -> list[Kernel]:
    """The kernels that spill or have a stack frame and are not listed as exceptions."""
    return [
        kernel
        for kernel in kernels
        if (kernel.spilled or kernel.stack) and not any(part in kernel.name for part in exceptions)
    ]


def compile_report(nvcc: str, source: Path, arch: str) -> str:
    """Compile one source for one architecture, with warnings as errors; returns ptxas's report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++20", "-O3", f"-arch={arch}", f"-I{CSRC}", "-Xptxas", "-v"]
        command += ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"]
        command += ["-c", str(source), "-o", str(Path(folder, "out.o"))]
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    if result.returncode != 0:
        raise SystemExit(f"{source.name} does not compile for {arch}:\n{result.stdout}")
    return result.stdout


def main() -> int:
    """Check every source for every architecture; returns the exit status."""
    toolkit = find_toolkit()
    if isinstance(toolkit, Missing):
        print(f"spill check skipped, nvcc not found: {toolkit.why}")
        return 0
    nvcc = f"{toolkit.home}/bin/nvcc"
    jobs = [(source, arch) for source in sorted(CSRC.glob("*/*.cu")) for arch in ARCHES]
    kernels: list[Kernel] = []
    with ThreadPoolExecutor(cores()) as pool:
        reports = pool.map(lambda pair: compile_report(nvcc, *pair), jobs)
        for (source, arch), report in zip(jobs, reports, strict=True):
            found = parse_ptxas(report)
            if not found:
                raise SystemExit(f"ptxas's report contains no kernel for {source.name}, {arch}")
            most = max(kernel.registers for kernel in found)
            count = f"{len(found)} kernels, at most {most} registers"
            print(f"{source.name} {arch}: {count}", flush=True)
            kernels += found
    bad = offenders(kernels, EXCEPTIONS)
    for kernel in bad:
        print(
            f"SPILL {kernel.name} on {kernel.arch}: {kernel.spilled} bytes spilled,"
            f" {kernel.stack} bytes of stack. Fix it, or list it in EXCEPTIONS with the reason"
        )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
