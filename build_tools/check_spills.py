"""Compiles every .cu file and holds what the kernels cost to a budget: no spills, no growth.

Run `python -m build_tools.check_spills`. It reads the report of ptxas and the machine code, so it
needs nvcc, but no GPU and no torch. Without nvcc it prints a note and passes. All warnings of nvcc
are errors.

The budget is kernel_budget.csv. After a change to a kernel that makes it cheaper, or that adds one,
run it with --update; where a kernel grows, also with --because "the reason".
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

# For `python build_tools/check_spills.py`.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from build_tools import kernel_budget
from build_tools.decide import Missing, Toolkit
from build_tools.environment import cores, find_toolkit
from build_tools.kernel_budget import ARCH, Cost

CSRC = Path(__file__).resolve().parent.parent / "csrc"
ARCHES = ("sm_80", ARCH)
# Kernels that may spill: part of the mangled name → why the spill is acceptable.
EXCEPTIONS: dict[str, str] = {
    # kernel_budget.csv allows none on sm_90.
    "onchip_kernel": "sm_80: the layer's number, stored and loaded once per phase, not in a tile",
}


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


def offenders(kernels: list[Kernel], exceptions: Mapping[str, str]) -> list[Kernel]:
    """The kernels that spill or have a stack frame and are not listed as exceptions."""
    return [
        kernel
        for kernel in kernels
        if (kernel.spilled or kernel.stack) and not any(part in kernel.name for part in exceptions)
    ]


@dataclass(frozen=True)
class Compiled:
    """One source compiled for one architecture."""

    source: str
    kernels: list[Kernel]
    counts: dict[str, tuple[int, int]]  # mangled name → instructions, branches; only for ARCH


def compile_one(nvcc: str, disassembler: str | None, source: Path, arch: str) -> Compiled:
    """Compile one source for one architecture, with warnings as errors, and read the result."""
    with tempfile.TemporaryDirectory() as folder:
        output = str(Path(folder, "out.o"))
        command = [nvcc, "-std=c++20", "-O3", f"-arch={arch}", f"-I{CSRC}", "-Xptxas", "-v"]
        command += ["-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"]
        command += ["-c", str(source), "-o", output]
        result = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        if result.returncode != 0:
            raise SystemExit(f"{source.name} does not compile for {arch}:\n{result.stdout}")
        kernels = parse_ptxas(result.stdout)
        if not kernels:
            raise SystemExit(f"ptxas's report contains no kernel for {source.name}, {arch}")
        counts = {}
        if disassembler and arch == ARCH:
            # It runs nvdisasm, which is in the same folder.
            path = os.pathsep.join([str(Path(disassembler).parent), os.environ.get("PATH", "")])
            listing = subprocess.run(
                [disassembler, "-sass", output],
                env=os.environ | {"PATH": path},
                capture_output=True,
                text=True,
                check=True,
            )
            counts = kernel_budget.parse_sass(listing.stdout)
    return Compiled(source.name, kernels, counts)


def find_disassembler(toolkit: Toolkit) -> str | None:
    """cuobjdump: the toolkit's, the one on PATH, or the copy that triton ships with."""
    beside = Path(toolkit.home, "bin", "cuobjdump")
    if beside.exists():
        return str(beside)
    triton = find_spec("triton")
    folders = list(triton.submodule_search_locations or ()) if triton else []
    shipped = [str(Path(folder, "backends", "nvidia", "bin")) for folder in folders]
    return shutil.which("cuobjdump") or shutil.which("cuobjdump", path=os.pathsep.join(shipped))


def costs_of(compiled: list[Compiled]) -> list[Cost]:
    """A row for each kernel that was disassembled.

    Raises:
        SystemExit: ptxas reported a kernel that the disassembly lacks.
    """
    costs = []
    for result in compiled:
        names = kernel_budget.demangled(result.counts) if result.counts else {}
        for kernel in result.kernels if names else []:
            if kernel.name not in names:
                raise SystemExit(f"the disassembly of {result.source} lacks {kernel.name}")
            counts = result.counts[kernel.name]
            spent = (*counts, kernel.registers, kernel.spilled)
            costs.append(Cost(result.source, names[kernel.name], *spent))
    return costs


def compile_all(toolkit: Toolkit, disassembler: str | None) -> list[Compiled]:
    """Compile every source for every architecture, and print a line for each."""
    nvcc = f"{toolkit.home}/bin/nvcc"
    jobs = [(source, arch) for source in sorted(CSRC.glob("*/*.cu")) for arch in ARCHES]
    done = []
    with ThreadPoolExecutor(cores()) as pool:
        results = pool.map(lambda job: compile_one(nvcc, disassembler, *job), jobs)
        for (source, arch), compiled in zip(jobs, results, strict=True):
            most = max(kernel.registers for kernel in compiled.kernels)
            count = f"{len(compiled.kernels)} kernels, at most {most} registers"
            print(f"{source.name} {arch}: {count}", flush=True)
            done.append(compiled)
    return done


def report_spills(kernels: list[Kernel]) -> bool:
    """Print the kernels that spill; returns whether there are any."""
    bad = offenders(kernels, EXCEPTIONS)
    for kernel in bad:
        print(
            f"SPILL {kernel.name} on {kernel.arch}: {kernel.spilled} bytes spilled,"
            f" {kernel.stack} bytes of stack. Fix it, or list it in EXCEPTIONS with the reason"
        )
    return bool(bad)


def report_budget(costs: list[Cost], version: str) -> bool:
    """Compare the counts with the budget's file and print what differs; returns whether any do."""
    file = kernel_budget.FILE
    if not file.exists():
        print(f"budget: not compared, there is no {file.name}: check_spills --update writes it")
        return False
    recorded, budget = kernel_budget.read(file.read_text(encoding="utf-8"))
    if recorded != version:
        print(f"budget: written with nvcc {recorded}, this is {version}: counts are not compared")
    found = kernel_budget.complaints(costs, budget, version_differs=recorded != version)
    for complaint in found:
        print(f"BUDGET {complaint}")
    if found:
        print(
            "budget: if that is intended, run python -m build_tools.check_spills --update, where a"
            ' kernel grew also with --because "the reason", and commit kernel_budget.csv'
        )
    else:
        print(f"budget: {len(costs)} kernels on {ARCH} cost no more than kernel_budget.csv allows")
    return bool(found)


def update_budget(costs: list[Cost], version: str, because: str) -> None:
    """Rewrite the budget's file.

    Raises:
        SystemExit: A kernel grew, and no reason was given.
    """
    file = kernel_budget.FILE
    _, budget = kernel_budget.read(file.read_text("utf-8")) if file.exists() else ("", {})
    try:
        rows = kernel_budget.updated(costs, budget, because)
    except ValueError as error:
        raise SystemExit(f"check_spills: {error}") from None
    temporary = file.with_suffix(".tmp")
    temporary.write_text(kernel_budget.write(version, rows), encoding="utf-8")
    os.replace(temporary, file)
    print(f"budget: {len(rows)} rows in {file.name}")


def main() -> int:
    """Check every source for every architecture; returns the exit status."""
    parser = argparse.ArgumentParser(description="Hold the compiled kernels to their budget.")
    parser.add_argument("--update", action="store_true", help="rewrite kernel_budget.csv")
    parser.add_argument("--because", default="", help="why kernels grew, for their rows")
    options = parser.parse_args()
    toolkit = find_toolkit()
    if isinstance(toolkit, Missing):
        print(f"spill check skipped, nvcc not found: {toolkit.why}")
        return 0
    disassembler = find_disassembler(toolkit)
    compiled = compile_all(toolkit, disassembler)
    failed = report_spills([kernel for result in compiled for kernel in result.kernels])
    if disassembler is None:
        print("budget: not compared, cuobjdump is neither in the toolkit nor on PATH nor in triton")
        return int(failed or options.update)
    costs = costs_of(compiled)
    if options.update:
        update_budget(costs, toolkit.version, options.because)
        return int(failed)
    return int(report_budget(costs, toolkit.version) or failed)


if __name__ == "__main__":
    sys.exit(main())
