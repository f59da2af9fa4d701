"""ptxas's report is parsed, and spills are found."""

from __future__ import annotations

from build_tools.check_spills import Kernel, offenders, parse_ptxas

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
