"""The machine code of kernels is counted, and held to the budget's file."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest

from build_tools import kernel_budget
from build_tools.kernel_budget import Cost, allowed, complaints, growth, parse_sass, updated

# What cuobjdump 13.1 prints for sm_90, with fewer spaces: a short kernel, and instructions of one
# with a loop and a division of 64-bit integers, which is a call.
LISTING = """
Fatbin elf code:
================
arch = sm_90
	code for sm_90
		Function : _ZN4tiny4fillEPfi
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*0000*/       LDC R1, c[0x0][0x28] ;        /* 0x00000a00ff017b82 */
                                                     /* 0x000fe20000000800 */
        /*0010*/       S2R R5, SR_TID.X ;            /* 0x0000000000057919 */
                                                     /* 0x000e220000002100 */
        /*0020*/       ULDC UR4, c[0x0][0x218] ;     /* 0x0000860000047ab9 */
                                                     /* 0x000fe40000000800 */
        /*0030*/       ISETP.GE.U32.AND P0, PT, R5, UR4, PT ;/* 0x0000000405007c0c */
                                                     /* 0x001fda000bf06070 */
        /*0040*/   @P0 EXIT ;                        /* 0x000000000000094d */
                                                     /* 0x000fea0003800000 */
        /*0050*/       STG.E desc[UR4][R2.64], R7 ;  /* 0x0000000702007986 */
                                                     /* 0x000fe2000c101904 */
        /*0060*/       EXIT ;                        /* 0x000000000000794d */
                                                     /* 0x000fea0003800000 */
        /*0070*/       BRA 0x70;                     /* 0xfffffffc00fc7947 */
                                                     /* 0x000fc0000383ffff */
        /*0080*/       NOP;                          /* 0x0000000000007918 */
                                                     /* 0x000fc00000000000 */
        /*0090*/       NOP;                          /* 0x0000000000007918 */
                                                     /* 0x000fc00000000000 */
		..........

		Function : _ZN4tiny8quotientIlEEvPT_S1_
	.headerflags	@"EF_CUDA_SM90 EF_CUDA_VIRTUAL_SM(EF_CUDA_SM90)"
        /*02c0*/       MOV R10, 0x2e0 ;              /* 0x000002e0000a7802 */
                                                     /* 0x000fce0000000f00 */
        /*02d0*/       CALL.REL.NOINC 0xf70 ;        /* 0x0000000c00247944 */
                                                     /* 0x000fea0003c00000 */
        /*02e0*/  @!P0 WARPSYNC.ALL ;                /* 0x0000000000008948 */
                                                     /* 0x000fea0003800000 */
        /*02f0*/  @!P3 LOP3.LUT R2, RZ, R4, RZ, 0x33, !PT ;/* 0x00000004ff02b212 */
                                                     /* 0x000fce00078e33ff */
        /*0300*/   @P0 BRA 0x2c0 ;                   /* 0xfffffffc00fc0947 */
                                                     /* 0x000fea000383ffff */
        /*0310*/ @!UP0 UIADD3 UR4, UR4, 0x1, URZ ;   /* 0x0000000104048890 */
                                                     /* 0x000fe2000fffe03f */
        /*0320*/       RET.REL.NODEC R2 0x0 ;        /* 0xffffffe802cc7950 */
                                                     /* 0x000fea0003c3ffff */
        /*0330*/       BRA 0x330;                    /* 0xfffffffc00fc7947 */
                                                     /* 0x000fc0000383ffff */
"""
COST = Cost("tiny_cuda.cu", "fill", instructions=600, branches=83, registers=54, spilled=0)


def budget_of(*costs: Cost) -> dict:
    return {(cost.source, cost.kernel): cost for cost in costs}


def test_instructions_and_branches_are_counted_without_padding():
    assert parse_sass(LISTING) == {
        "_ZN4tiny4fillEPfi": (7, 0),
        "_ZN4tiny8quotientIlEEvPT_S1_": (7, 2),
    }
    assert parse_sass("arch = sm_90\n") == {}


@pytest.mark.parametrize(
    ("signature", "name"),
    [
        ("void sign_ext::gate_kernel<float>(float const*, long)", "gate_kernel<float>"),
        ("tiny::fill(float*, int)", "tiny::fill"),
        (
            "void sign_ext::(anonymous namespace)::pool<(sign_ext::Kind)1, unsigned char>(int)",
            "pool<(Kind)1, unsigned char>",
        ),
    ],
    ids=["template", "function", "anonymous"],
)
def test_a_kernel_is_called_by_its_name_and_template_arguments(signature, name):
    assert kernel_budget.short_name(signature) == name


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="no c++filt here")
def test_names_are_demangled():
    names = kernel_budget.demangled(parse_sass(LISTING))
    assert list(names.values()) == ["tiny::fill", "tiny::quotient<long>"]


def test_a_budget_is_written_and_read():
    template = replace(COST, kernel="fill<float, 8>", reason="two rows, a thread")
    text = kernel_budget.write("13.0", [template, COST])
    assert text.splitlines()[2:] == [
        "tiny_cuda.cu,fill,600,83,54,0,",
        'tiny_cuda.cu,"fill<float, 8>",600,83,54,0,"two rows, a thread"',
    ]
    assert kernel_budget.read(text) == ("13.0", budget_of(COST, template))


def test_a_file_that_is_no_budget_is_refused():
    text = kernel_budget.write("13.0", [COST])
    for wrong in ("", text.partition("\n")[2], text.replace("branches", "jumps")):
        with pytest.raises(ValueError, match="not a budget"):
            kernel_budget.read(wrong)
    with pytest.raises(ValueError, match=r"fill of tiny_cuda.cu has two rows"):
        kernel_budget.read(text + text.splitlines()[-1] + "\n")


@pytest.mark.parametrize(
    ("count", "budgeted", "most"),
    [
        ("instructions", 600, 618),
        ("instructions", 60, 68),
        ("branches", 83, 87),
        ("branches", 3, 5),
        ("registers", 54, 58),
        ("spilled", 0, 0),
    ],
    ids=["share", "least", "branches", "few branches", "registers", "no spill is tolerated"],
)
def test_small_growth_is_tolerated(count, budgeted, most):
    assert allowed(count, budgeted) == most
    row = replace(COST, **{count: budgeted})
    assert growth(replace(row, **{count: most}), row) == ""
    assert growth(replace(row, **{count: most + 1}), row) == f"{count} {budgeted} → {most + 1}"


def test_growth_new_kernels_and_stale_rows_are_complaints():
    grown = replace(COST, branches=100, spilled=8)
    new, gone = replace(COST, kernel="new"), replace(COST, kernel="gone")
    budget = budget_of(COST, gone)
    assert complaints([grown, new], budget, version_differs=False) == [
        "fill of tiny_cuda.cu grew: branches 83 → 100, spilled 0 → 8",
        "new of tiny_cuda.cu has no row",
        "gone of tiny_cuda.cu has a row, but is gone",
    ]
    # Another compiler's counts say nothing about the source.
    assert len(complaints([grown, new], budget, version_differs=True)) == 2
    assert complaints([replace(COST, branches=5)], budget_of(COST), version_differs=False) == []


def test_growth_needs_a_reason_and_the_reason_stays():
    grown = replace(COST, instructions=900)
    with pytest.raises(ValueError, match=r"fill grew \(instructions 600 → 900\): .*--because"):
        updated([grown], budget_of(COST), "")
    (row,) = updated([grown], budget_of(COST), "unrolled")
    assert (row.instructions, row.reason) == (900, "unrolled")
    (row,) = updated([replace(grown, instructions=880)], budget_of(row), "")
    assert (row.instructions, row.reason) == (880, "unrolled")
    assert updated([COST], {}, "")[0].reason == ""
