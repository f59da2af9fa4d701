"""ptxas's report is parsed, spills are found, and the budget's file is held to and written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from build_tools import check_spills, kernel_budget
from build_tools.check_spills import (
    Compiled,
    Kernel,
    costs_of,
    find_disassembler,
    offenders,
    parse_ptxas,
    report_budget,
    update_budget,
)
from build_tools.decide import Toolkit
from build_tools.kernel_budget import Cost

REPORT = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_Z5cleanPf' for 'sm_90'
ptxas info    : Function properties for _Z5cleanPf
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 32 registers, used 0 barriers
ptxas info    : Compiling entry function '_Z6spillyPf' for 'sm_90'
ptxas info    : Function properties for _Z6spillyPf
    24 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 24 bytes cumulative stack size
"""


def test_a_report_is_parsed():
    assert parse_ptxas(REPORT) == [
        Kernel("_Z5cleanPf", "sm_90", registers=32, stack=0, spilled=0),
        Kernel("_Z6spillyPf", "sm_90", registers=255, stack=24, spilled=20),
    ]
    assert parse_ptxas("ptxas info    : 0 bytes gmem\n") == []


def test_only_listed_kernels_may_spill():
    kernels = parse_ptxas(REPORT)
    assert [kernel.name for kernel in offenders(kernels, {})] == ["_Z6spillyPf"]
    assert offenders(kernels, {"spilly": "measured faster than the version with two passes"}) == []
    on_stack = Kernel("_Z5stackPf", "sm_80", registers=40, stack=16, spilled=0)
    assert offenders([on_stack], {}) == [on_stack]


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt here")
def test_a_kernels_cost_is_its_report_and_its_machine_code():
    kernels = parse_ptxas(REPORT)
    counts = {"_Z5cleanPf": (40, 3), "_Z6spillyPf": (900, 77)}
    assert costs_of([Compiled("a.cu", kernels, counts), Compiled("a.cu", kernels, {})]) == [
        Cost("a.cu", "clean", instructions=40, branches=3, registers=32, spilled=0),
        Cost("a.cu", "spilly", instructions=900, branches=77, registers=255, spilled=20),
    ]
    with pytest.raises(SystemExit, match=r"disassembly of a\.cu lacks _Z6spillyPf"):
        costs_of([Compiled("a.cu", kernels, {"_Z5cleanPf": (40, 3)})])


def test_the_budget_is_updated_and_held_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(kernel_budget, "FILE", tmp_path / "budget.csv")
    cost = Cost("a.cu", "clean", instructions=400, branches=30, registers=32, spilled=0)
    grown = Cost("a.cu", "clean", instructions=400, branches=83, registers=32, spilled=0)
    assert report_budget([cost], "13.0") is False
    assert "there is no budget.csv" in capsys.readouterr().out
    update_budget([cost], "13.0", "")
    assert report_budget([cost], "13.0") is False
    assert report_budget([grown], "13.0") is True
    printed = capsys.readouterr().out
    assert "BUDGET clean of a.cu grew: branches 30 → 83" in printed
    assert "check_spills --update" in printed
    assert report_budget([grown], "13.2") is False  # another compiler's counts
    assert "written with nvcc 13.0, this is 13.2" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="say why with --because"):
        update_budget([grown], "13.0", "")
    update_budget([grown], "13.0", "an activation chosen at run time")
    assert report_budget([grown], "13.0") is False
    assert "83,32,0,an activation chosen at run time" in kernel_budget.FILE.read_text()


def test_the_disassembler_of_the_toolkit_comes_first(tmp_path, monkeypatch):
    def program(folder: Path) -> str:
        folder.mkdir(parents=True)
        (folder / "cuobjdump").touch(mode=0o755)
        return str(folder / "cuobjdump")

    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    monkeypatch.setattr(check_spills, "find_spec", lambda name: None)
    toolkit = Toolkit(str(tmp_path / "cuda"), "13.0")
    assert find_disassembler(toolkit) is None
    on_path = program(tmp_path / "on_path")
    monkeypatch.setenv("PATH", str(tmp_path / "on_path"))
    assert find_disassembler(toolkit) == on_path
    beside = program(tmp_path / "cuda" / "bin")
    assert find_disassembler(toolkit) == beside


@pytest.mark.skipif(not kernel_budget.FILE.exists(), reason="no budget was written yet")
def test_the_committed_budget_has_a_row_for_every_source_of_kernels():
    _, budget = kernel_budget.read(kernel_budget.FILE.read_text(encoding="utf-8"))
    sources = {path.name for path in check_spills.CSRC.glob("*/*.cu")}
    assert {source for source, _ in budget} == sources
    assert all(cost.spilled == 0 for cost in budget.values())
