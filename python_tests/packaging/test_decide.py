"""The build decision for every combination of request and available tools."""

from __future__ import annotations

import pytest

from build_tools.decide import (
    BYTES_PER_JOB,
    BuildError,
    Decision,
    Missing,
    Toolkit,
    Torch,
    builds_module,
    decide,
    default_arches,
    is_too_old,
    parallel_jobs,
    summary,
)

CUDA_TORCH = Torch("2.15.0+cu132", "13.2")
CPU_TORCH = Torch("2.13.0+cpu", None)
TOOLKIT = Toolkit("/opt/cuda", "13.0")
NO_TOOLKIT = Missing("nvcc is not on PATH")
NO_COMPILER = Missing("there is no C++ compiler")


@pytest.mark.parametrize(
    ("requested", "torch", "toolkit", "compiler", "kind", "why"),
    [
        ("auto", CUDA_TORCH, TOOLKIT, "c++", "cuda", "nvcc 13.0 is in /opt/cuda"),
        ("cuda", CUDA_TORCH, TOOLKIT, "c++", "cuda", "CUDA 13.2 build"),
        ("auto", CUDA_TORCH, NO_TOOLKIT, "c++", "cpu", "nvcc is not on PATH"),
        ("auto", CPU_TORCH, TOOLKIT, "c++", "cpu", "2.13.0+cpu has no CUDA"),
        ("auto", CUDA_TORCH, Toolkit("/opt/old", "12.9"), "c++", "cpu", "major versions"),
        ("cpu", CUDA_TORCH, TOOLKIT, "c++", "cpu", "SIGN_EXT_BUILD=cpu"),
        ("auto", CUDA_TORCH, TOOLKIT, NO_COMPILER, "none", "no C++ compiler"),
        ("none", Missing("not looked for"), NO_TOOLKIT, NO_COMPILER, "none", "SIGN_EXT_BUILD=none"),
    ],
)
def test_decisions(requested, torch, toolkit, compiler, kind, why):
    decision = decide(requested, torch, toolkit, compiler)
    assert decision.kind == kind
    assert why in decision.why


@pytest.mark.parametrize(
    ("requested", "torch", "toolkit", "compiler", "message"),
    [
        ("gpu", CUDA_TORCH, TOOLKIT, "c++", "'gpu' is not one of auto, cpu, cuda, none"),
        ("cuda", CUDA_TORCH, NO_TOOLKIT, "c++", "nvcc is not on PATH; SIGN_EXT_BUILD=cpu"),
        ("cuda", CPU_TORCH, TOOLKIT, "c++", "has no CUDA; SIGN_EXT_BUILD=cpu"),
        ("cuda", CUDA_TORCH, Toolkit("/opt/old", "12.9"), "c++", "major versions must agree"),
        ("cuda", CUDA_TORCH, TOOLKIT, NO_COMPILER, "needs a C++ compiler"),
        ("cpu", CUDA_TORCH, TOOLKIT, NO_COMPILER, "SIGN_EXT_BUILD=none installs pure Python"),
        ("auto", Missing("No module named 'torch'"), TOOLKIT, "c++", "install torch>=2.11 first"),
        ("auto", Torch("2.10.1", "12.8"), TOOLKIT, "c++", "older than 2.11"),
        ("cpu", Torch("2.9.0a0+git1234", None), NO_TOOLKIT, "c++", "older than 2.11"),
    ],
)
def test_an_impossible_build_raises_one_sentence(requested, torch, toolkit, compiler, message):
    with pytest.raises(BuildError) as caught:
        decide(requested, torch, toolkit, compiler)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_module_for_one_python_is_optional():
    headers = Missing("Python.h is not in /usr/include")
    assert builds_module("auto", None)
    assert not builds_module("auto", headers)
    assert not builds_module("none", None)
    with pytest.raises(BuildError, match="SIGN_EXT_MODULE='cpu' is not one of auto, none"):
        builds_module("cpu", None)


@pytest.mark.parametrize(
    ("version", "old"),
    [
        ("2.11.0", False),
        ("2.15.0+cu132", False),
        ("3.0.1", False),
        ("2.10.9", True),
        ("1.13", True),
    ],
)
def test_versions_are_compared_as_numbers(version, old):
    assert is_too_old(version) is old


SUPPORTED = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0", "12.1"]


@pytest.mark.parametrize(
    ("visible", "supported", "expected"),
    [
        (["9.0"], SUPPORTED, "9.0+PTX"),
        (["12.0", "8.6", "8.6"], SUPPORTED, "8.6;12.0+PTX"),
        (["13.0"], SUPPORTED, "12.1+PTX"),  # newer than nvcc supports: PTX of the newest below it
        ([], SUPPORTED, "8.0;8.6;8.9;9.0;10.0;12.0+PTX"),
        ([], ["7.0", "7.5", "8.0", "8.6", "9.0"], "8.0;8.6;9.0+PTX"),
        ([], ["14.0"], "14.0+PTX"),
        (["5.2"], SUPPORTED, "8.0;8.6;8.9;9.0;10.0;12.0+PTX"),  # older than nvcc supports
    ],
)
def test_default_arches(visible, supported, expected):
    assert default_arches(visible, supported) == expected


def test_jobs_are_limited_by_cores_and_by_memory():
    assert parallel_jobs(4, 100 * BYTES_PER_JOB) == 4
    assert parallel_jobs(64, 3 * BYTES_PER_JOB + 1) == 3
    assert parallel_jobs(8, 0) == 1


def test_the_summary_says_what_is_built_and_why():
    built = summary(Decision("cuda", "all is here"), "9.0+PTX")
    assert "CUDA operators (9.0+PTX) are built. Why: all is here." in built
    assert "CUDA operators are not" in summary(Decision("cpu", "no toolkit"))
    assert "slower. Why: asked for." in summary(Decision("none", "asked for"))
