"""Torch, a CUDA toolkit and a compiler are found in simulated environments."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

import pytest

import build_backend
from build_tools import environment
from build_tools.decide import Missing, Toolkit


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


NVCC = """case "$1" in
--version) echo 'Cuda compilation tools, release 12.8, V12.8.93' ;;
--list-gpu-arch) printf 'compute_75\\ncompute_90\\ncompute_120\\n' ;;
--dryrun) echo '#$ TOP={top}' ;;
esac"""


def test_the_toolkit_in_cuda_home_is_used(tmp_path, monkeypatch):
    script(tmp_path / "cuda" / "bin" / "nvcc", NVCC.format(top=tmp_path / "cuda"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "cuda"))
    toolkit = environment.find_toolkit()
    assert toolkit == Toolkit(str(tmp_path / "cuda"), "12.8")
    assert environment.supported_arches(toolkit) == ["7.5", "9.0", "12.0"]


def test_a_cuda_home_without_nvcc_is_no_toolkit_even_with_nvcc_on_path(tmp_path, monkeypatch):
    script(tmp_path / "bin" / "nvcc", NVCC.format(top=tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "nowhere"))
    toolkit = environment.find_toolkit()
    assert isinstance(toolkit, Missing)
    assert "CUDA_HOME" in toolkit.why


def test_nvcc_on_path_may_be_a_wrapper_script(tmp_path, monkeypatch):
    real = script(tmp_path / "cuda-12.8" / "bin" / "nvcc", NVCC.format(top=tmp_path / "cuda-12.8"))
    script(tmp_path / "bin" / "nvcc", f'exec {real} "$@"')
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert environment.find_toolkit() == Toolkit(str(tmp_path / "cuda-12.8"), "12.8")


def test_an_nvcc_that_fails_is_no_toolkit(tmp_path, monkeypatch):
    script(tmp_path / "bin" / "nvcc", "exit 1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert isinstance(environment.find_toolkit(), Missing)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "is not on PATH"),
        ("echo 'probe.cpp:2: error: no such header' >&2; exit 1", "error: no such header"),
    ],
)
def test_an_unusable_compiler_counts_as_missing(tmp_path, monkeypatch, body, message):
    compiler = tmp_path / "some-c++"
    if body is not None:
        script(compiler, body)
    monkeypatch.setenv("CXX", str(compiler))
    found = environment.find_compiler()
    assert isinstance(found, Missing)
    assert message in found.why


def test_missing_python_headers_are_reported(tmp_path, monkeypatch):
    assert environment.find_python_headers() is None or not os.path.exists(
        os.path.join(sysconfig.get_path("include"), "Python.h")
    )
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    found = environment.find_python_headers()
    assert isinstance(found, Missing)
    assert f"Python.h is not in {tmp_path}" in found.why
    (tmp_path / "Python.h").touch()
    assert environment.find_python_headers() is None


@pytest.mark.parametrize(
    ("printed", "version"),
    [('g++ "12.2.0"', "g++ 12.2.0"), ('clang "19.1.7 (a build)"', "clang 19.1.7 (a build)")],
    ids=["gcc", "clang"],
)
def test_the_compilers_version_is_what_its_macros_say(tmp_path, monkeypatch, printed, version):
    monkeypatch.setenv("CXX", str(script(tmp_path / "c++", f"cat > /dev/null; echo '{printed}'")))
    assert environment.compiler_version() == version


def install_fake_torch(folder: Path, version: str) -> None:
    metadata = folder / f"torch-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")


@pytest.mark.parametrize(
    ("version", "switch", "required"),
    [
        ("2.15.0+cu132", "auto", []),
        ("2.10.0", "auto", ["torch>=2.11"]),  # the dependency replaces it: build for the new one
        (None, "", ["torch>=2.11"]),
        (None, "none", []),
        (None, " None ", []),
    ],
)
def test_torch_is_a_build_requirement_only_if_none_is_installed(
    tmp_path, monkeypatch, version, switch, required
):
    monkeypatch.setattr(environment, "target_folders", lambda: [str(tmp_path)])
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setenv("SIGN_EXT_BUILD", switch)
    if version:
        install_fake_torch(tmp_path, version)
    assert build_backend.get_requires_for_build_wheel() == required
    assert build_backend.get_requires_for_build_editable() == required
    assert build_backend.get_requires_for_build_sdist() == []


def test_the_targets_packages_come_after_the_builds_own(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "target_folders", lambda: [str(tmp_path), "/already/there"])
    monkeypatch.setattr(sys, "path", ["/isolated/setuptools", "/already/there"])
    environment.add_target_folders()
    assert sys.path == ["/isolated/setuptools", "/already/there", str(tmp_path)]


def test_the_target_is_where_this_interpreter_installs():
    assert sysconfig.get_path("purelib") in environment.target_folders()


def test_under_uv_the_activated_environment_is_searched(monkeypatch, tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "pyvenv.cfg").touch()
    packages = sysconfig.get_path(
        "purelib", vars={"base": str(tmp_path), "platbase": str(tmp_path)}
    )
    Path(packages).mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv("UV", raising=False)
    assert packages not in environment.target_folders()
    monkeypatch.setenv("UV", "/usr/bin/uv")
    assert packages in environment.target_folders()


def test_free_memory_and_cores_are_positive():
    assert environment.free_memory() > 0
    assert environment.cores() >= 1
