"""What setuptools is asked to build: a library for every Python, and a module for this one."""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path

import pytest
from setuptools import Distribution

from build_tools import environment, extension
from build_tools.decide import Missing, Toolkit, Torch

MODULE = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
linux = pytest.mark.skipif(os.name != "posix", reason="names of files on Linux and macOS")


@pytest.fixture
def tools(monkeypatch):
    """A machine with torch, a compiler, nvcc and Python's headers."""
    for name in ("SIGN_EXT_BUILD", "SIGN_EXT_MODULE", "SIGN_EXT_LOCAL_VERSION"):
        monkeypatch.delenv(name, raising=False)
    for name in ("MAX_JOBS", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))  # restored afterwards
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0 9.0+PTX")
    monkeypatch.setattr(extension, "last_summary", None)
    monkeypatch.setattr(environment, "find_torch", lambda: Torch("2.15.0", "13.2"))
    monkeypatch.setattr(environment, "find_toolkit", lambda: Toolkit("/cuda", "13.0"))
    monkeypatch.setattr(environment, "find_compiler", lambda: "c++")
    monkeypatch.setattr(environment, "compiler_version", lambda: "g++ 12.2.0")
    monkeypatch.setattr(environment, "find_python_headers", lambda: None)
    monkeypatch.setattr(extension, "_link_cuda_runtime", lambda toolkit: ["libcudart.so.13"])
    return monkeypatch


def built(arguments: dict) -> dict[str, list[str]]:
    """Sources by the name of what they are built into."""
    return {each.name: each.sources for each in arguments["ext_modules"]}


def recorded(arguments: dict, folder: Path) -> dict:
    """What the build would write into the package."""
    (folder / "sign_ext").mkdir()
    command = arguments["cmdclass"]["build_py"](Distribution({"packages": []}))
    command.ensure_finalized()
    command.build_lib, command.editable_mode = str(folder), False
    command.run()
    return json.loads((folder / "sign_ext" / "_build_info.json").read_text())


@linux
def test_python_is_in_the_module_alone(tools):
    tools.setenv("SIGN_EXT_BUILD", "cpu")
    sources = built(extension.setup_arguments(["build"]))
    assert sources.pop("sign_ext._C") == ["csrc/python/module.cpp"]
    (library,) = sources.values()
    assert list(sources) == ["sign_ext.libsign_ext_ops"]
    assert "csrc/bindings/gate.cpp" in library
    assert "csrc/gate/gate_cpu.cpp" in library
    assert not [name for name in library if "python" in name or name.endswith(".cu")]
    for source in library:
        assert "pybind11" not in (extension.ROOT / source).read_text()


@linux
def test_a_cuda_build_is_recorded_as_it_was_made(tools, tmp_path):
    arguments = extension.setup_arguments(["bdist_wheel"])
    library, module = arguments["ext_modules"]
    assert "csrc/gate/gate_cuda.cu" in library.sources
    assert library.libraries == ["torch_cpu", "torch_cuda"]
    assert library.extra_link_args == ["libcudart.so.13"]
    # What is compiled into the module and what is recorded agree.
    assert dict(module.define_macros) == {
        "SIGN_EXT_WITH_CUDA": None,
        "SIGN_EXT_ARCHES": '"8.0;9.0+PTX"',
        "SIGN_EXT_TOOLKIT": '"13.0"',
    }
    record = recorded(arguments, tmp_path)
    why = record.pop("why")
    assert "nvcc 13.0 is in /cuda" in why
    assert record.pop("torch_built_with").startswith("2.")
    assert record == {
        "native": True,
        "kind": "cuda",
        "cuda": True,
        "arches": "8.0;9.0+PTX",
        "toolkit": "13.0",
        "compiler": "g++ 12.2.0",
        "library": "libsign_ext_ops.so",
        "module": MODULE,
    }


@linux
@pytest.mark.parametrize("cause", ["left out", "no headers"])
def test_without_the_module_the_library_is_still_built(tools, tmp_path, cause):
    tools.setenv("SIGN_EXT_BUILD", "cpu")
    if cause == "left out":
        tools.setenv("SIGN_EXT_MODULE", "none")
    else:
        tools.setattr(environment, "find_python_headers", lambda: Missing("no Python.h"))
    arguments = extension.setup_arguments(["build"])
    assert list(built(arguments)) == ["sign_ext.libsign_ext_ops"]
    record = recorded(arguments, tmp_path)
    assert (record["module"], record["library"]) == (None, "libsign_ext_ops.so")
    assert (record["cuda"], record["arches"], record["toolkit"]) == (False, "", "")


@linux
def test_names_have_no_python_version_but_the_modules_has(tools):
    tools.setenv("SIGN_EXT_BUILD", "cpu")
    arguments = extension.setup_arguments(["bdist_wheel"])
    distribution = Distribution(
        {"name": "sign-ext", "version": "1.0", "ext_modules": arguments["ext_modules"]}
    )
    build = arguments["cmdclass"]["build_ext"](distribution)
    assert build.get_ext_filename("sign_ext.libsign_ext_ops") == "sign_ext/libsign_ext_ops.so"
    assert build.get_ext_filename("sign_ext._C") == f"sign_ext/{MODULE}"
    wheel = arguments["cmdclass"]["bdist_wheel"](distribution)
    wheel.ensure_finalized()
    python, abi, platform = wheel.get_tag()
    assert (python, abi) == ("py3", "none")
    assert platform not in ("", "any")


def test_pure_python_builds_nothing_and_says_so(tools, tmp_path):
    tools.setenv("SIGN_EXT_BUILD", "none")
    arguments = extension.setup_arguments(["bdist_wheel"])
    assert "ext_modules" not in arguments
    assert recorded(arguments, tmp_path) == {
        "native": False,
        "kind": "none",
        "why": "SIGN_EXT_BUILD=none asked for pure Python",
    }


@pytest.mark.parametrize("command", ["sdist", "bdist_wheel"])
def test_a_local_version_is_appended(tools, command):
    tools.setenv("SIGN_EXT_BUILD", "none")
    assert "options" not in extension.setup_arguments([command])
    tools.setenv("SIGN_EXT_LOCAL_VERSION", "cu13")
    options = extension.setup_arguments([command])["options"]
    assert options == {"egg_info": {"tag_build": "+cu13"}}


def test_an_unknown_choice_ends_in_one_sentence(tools):
    tools.setenv("SIGN_EXT_MODULE", "cuda")
    with pytest.raises(SystemExit, match="SIGN_EXT_MODULE='cuda' is not one of auto, none"):
        extension.setup_arguments(["build"])


def test_the_version_is_written_once():
    import sign_ext

    root = extension.ROOT
    assert f"\nversion: {sign_ext.__version__}\n" in (root / "CITATION.cff").read_text()
    assert f"\n## {sign_ext.__version__} (" in (root / "CHANGELOG.md").read_text()
    assert '\ndynamic = ["version"]\n' in (root / "pyproject.toml").read_text()
