"""Turn the build decision into setuptools' arguments: sources, flags, commands, build record.

Two things are built. The library of the operators has no Python in it and sees torch through its
stable ABI only, so one file serves every Python and every torch from `OLDEST_TORCH` on. The module
sign_ext._C fits one Python; it is small, and nothing depends on it.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import Any

from setuptools import Command, Extension  # type: ignore[import-untyped]
from setuptools.command.bdist_wheel import bdist_wheel  # type: ignore[import-untyped]
from setuptools.command.build_py import build_py  # type: ignore[import-untyped]

from build_tools import environment
from build_tools.decide import (
    BuildError,
    Decision,
    Missing,
    Toolkit,
    builds_module,
    decide,
    default_arches,
    parallel_jobs,
    summary,
)

ROOT = Path(__file__).resolve().parent.parent
RECORD = "_build_info.json"
# sign_ext/ops/native.py loads it by this name.
LIBRARY = "sign_ext_ops" if sys.platform == "win32" else "libsign_ext_ops"
SUFFIX = ".dll" if sys.platform == "win32" else ".so"
# setup.py also runs for an sdist and for metadata: nothing is compiled, and torch may be missing.
BUILDING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "develop", "install"}

last_summary: str | None = None  # result of the latest build, printed last by build_backend


def setup_arguments(argv: list[str]) -> dict[str, Any]:
    """setuptools.setup's arguments for this run of setup.py.

    Raises:
        SystemExit: The requested kind cannot be built; the message is one sentence.
    """
    global last_summary
    arguments = _local_version()
    if not BUILDING.intersection(argv):
        return arguments
    try:
        requested = os.environ.get("SIGN_EXT_BUILD", "").strip().lower() or "auto"
        module = os.environ.get("SIGN_EXT_MODULE", "").strip().lower() or "auto"
        with_module = builds_module(module, environment.find_python_headers())
        decision, toolkit = _decide_here(requested)
        arches = _choose_arches(toolkit) if decision.kind == "cuda" and toolkit else ""
    except BuildError as error:
        raise SystemExit(f"sign_ext: {error}.") from None
    last_summary = summary(decision, arches)
    if decision.kind == "none":
        record = {"native": False, "kind": "none", "why": decision.why}
        return {**arguments, "cmdclass": {"build_py": _recording_build_py(record)}}
    os.environ.setdefault(
        "MAX_JOBS", str(parallel_jobs(environment.cores(), environment.free_memory()))
    )
    facts = _facts(toolkit if decision.kind == "cuda" else None, arches)
    record = {"native": True, "kind": decision.kind, "why": decision.why, **facts}
    record["library"] = LIBRARY + SUFFIX
    record["module"] = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}" if with_module else None
    commands = {
        "build_py": _recording_build_py(record),
        "build_ext": _build_extension_command(),
        "bdist_wheel": _WheelForEveryPython,
    }
    extensions = [_library(toolkit if decision.kind == "cuda" else None)]
    if with_module:
        extensions.append(_module(facts))
    return {**arguments, "cmdclass": commands, "ext_modules": extensions}


def _local_version() -> dict[str, Any]:
    """The option that appends SIGN_EXT_LOCAL_VERSION ("cu130") to the version, if it is set."""
    local = os.environ.get("SIGN_EXT_LOCAL_VERSION", "").strip()
    return {"options": {"egg_info": {"tag_build": f"+{local}"}}} if local else {}


class _WheelForEveryPython(bdist_wheel):  # type: ignore[misc]  # setuptools has no types
    """A wheel for one platform and every Python 3: what is for one Python in it is optional."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


def _facts(toolkit: Toolkit | None, arches: str) -> dict[str, Any]:
    """What `sign_ext.build_config()` reports of a build."""
    import torch

    return {
        "cuda": toolkit is not None,
        "arches": arches,
        "toolkit": toolkit.version if toolkit else "",
        "compiler": environment.compiler_version(),
        "torch_built_with": str(torch.__version__).partition("+")[0],
    }


def _decide_here(requested: str) -> tuple[Decision, Toolkit | None]:
    """Decide for this machine; returns the decision and the toolkit, if there is one."""
    not_searched = Missing("not looked for")
    if requested in ("auto", "cpu", "cuda"):
        torch = environment.find_torch()
        compiler = environment.find_compiler()
    else:
        torch, compiler = not_searched, not_searched
    look = requested in ("auto", "cuda") and not isinstance(torch, Missing)
    toolkit = environment.find_toolkit() if look else not_searched
    decision = decide(requested, torch, toolkit, compiler)
    return decision, None if isinstance(toolkit, Missing) else toolkit


def _choose_arches(toolkit: Toolkit) -> str:
    """TORCH_CUDA_ARCH_LIST if the user set it, else the default, which is exported for torch."""
    # torch's extension builder reads both variables at import, so they must be set before.
    os.environ["CUDA_HOME"] = toolkit.home
    arches = os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip()
    if not arches or arches == "native":
        supported = environment.supported_arches(toolkit)
        arches = default_arches(environment.visible_arches(), supported)
        os.environ["TORCH_CUDA_ARCH_LIST"] = arches
    return arches.replace(" ", ";")


def _library(toolkit: Toolkit | None) -> Extension:
    """The operators: csrc/<operator>/*_cpu.cpp, with a toolkit also *_cuda.cu, and the bindings."""
    from torch.utils import cpp_extension

    patterns = ["bindings/*.cpp", "*/*_cpu.cpp"] + ["*/*_cuda.cu"] * (toolkit is not None)
    device: list[str] = []
    macros: list[tuple[str, str | None]] = []
    libraries = ["torch_cpu"]
    link: list[str] = []
    if toolkit is not None:
        # USE_CUDA enables the CUDA declarations of the stable ABI.
        macros += [("SIGN_EXT_WITH_CUDA", None), ("USE_CUDA", None)]
        libraries.append("torch_cuda")
        # -isystem folders are searched after nvcc's own: they add headers but replace none.
        extra = [
            flag for f in environment.wheel_cuda_folders("include") for flag in ("-isystem", f)
        ]
        device = ["-std=c++20", "-O3", "-lineinfo", *extra]
        link = _link_cuda_runtime(toolkit)
    return Extension(
        f"sign_ext.{LIBRARY}",
        sorted(
            path.relative_to(ROOT).as_posix()
            for pattern in patterns
            for path in (ROOT / "csrc").glob(pattern)
        ),
        include_dirs=[str(ROOT / "csrc"), *cpp_extension.include_paths()],
        define_macros=macros,
        library_dirs=cpp_extension.library_paths(),
        libraries=libraries,
        extra_compile_args={"cxx": _host_flags(), "nvcc": device},  # type: ignore[arg-type]
        extra_link_args=link,
        language="c++",
    )


def _module(facts: dict[str, Any]) -> Extension:
    """sign_ext._C, which says how it was compiled."""
    from torch.utils import cpp_extension

    macros = [("SIGN_EXT_ARCHES", f'"{facts["arches"]}"')]
    macros += [("SIGN_EXT_TOOLKIT", f'"{facts["toolkit"]}"')]
    return Extension(
        "sign_ext._C",
        ["csrc/python/module.cpp"],
        include_dirs=[*_pybind11_folder(), *cpp_extension.include_paths()],
        define_macros=macros + [("SIGN_EXT_WITH_CUDA", None)] * facts["cuda"],
        extra_compile_args={"cxx": _host_flags(), "nvcc": []},  # type: ignore[arg-type]
        language="c++",
    )


def _host_flags() -> list[str]:
    """The C++ compiler's flags."""
    if sys.platform == "win32":
        return ["/std:c++20", "/O2"]
    # -std: torch 2.11 would use C++17. -ffile-prefix-map: error messages name source files relative
    # to the project, independent of the build folder.
    return [
        "-std=c++20",
        "-O3",
        "-g0",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        f"-ffile-prefix-map={ROOT}/=",
    ]


def _pybind11_folder() -> list[str]:
    """The folder of pybind11's headers; if it is not installed, torch's copy is used."""
    try:
        import pybind11
    except ImportError:  # without build isolation
        return []
    return [pybind11.get_include()]


def _link_cuda_runtime(toolkit: Toolkit) -> list[str]:
    """Linker arguments for the CUDA runtime.

    The shared library, which torch has already loaded: two runtimes in one process would each keep
    their own current device.
    """
    home = Path(toolkit.home)
    folders = [home / "lib64", home / "lib", *home.glob("targets/*/lib")]
    folders += [Path(folder) for folder in environment.wheel_cuda_folders("lib")]
    for name in ("libcudart.so*", "cudart.lib"):
        for folder in folders:
            for library in sorted(folder.glob(name)):
                return [str(library)]
    raise SystemExit(
        f"sign_ext: the CUDA runtime library (libcudart) is neither in {toolkit.home} nor in the"
        " nvidia-* wheels: complete the toolkit, or set SIGN_EXT_BUILD=cpu."
    )


def _build_extension_command() -> type[Command]:
    """torch's build_ext, for a library as well, with a failure message that names alternatives."""
    from torch.utils.cpp_extension import BuildExtension

    class BuildNative(BuildExtension):  # type: ignore[misc, valid-type]  # made at run time by torch
        def run(self) -> None:
            try:
                super().run()
            except Exception as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise SystemExit(
                    f"sign_ext: compiling the extension failed: {reason[0].rstrip('.')}. The"
                    " compiler's messages are above; SIGN_EXT_BUILD=cpu leaves the CUDA operators"
                    " out, SIGN_EXT_BUILD=none installs pure Python."
                ) from error

        def get_ext_filename(self, fullname: str) -> str:
            if fullname.rpartition(".")[2] == LIBRARY:  # not a module: no Python version in it
                return os.path.join(*fullname.split(".")) + SUFFIX
            return str(super().get_ext_filename(fullname))

        def get_export_symbols(self, ext: Extension) -> list[str]:
            if ext.name.rpartition(".")[2] == LIBRARY:
                return []
            return list(super().get_export_symbols(ext))

    return BuildNative


def _recording_build_py(content: dict[str, Any]) -> type[Command]:
    """build_py that also writes what is built into the package, for sign_ext.build_config()."""

    class RecordingBuildPy(build_py):
        def run(self) -> None:
            super().run()
            base = ROOT if self.editable_mode else Path(self.build_lib)
            record = base / "sign_ext" / RECORD
            record.parent.mkdir(parents=True, exist_ok=True)
            temporary = record.with_suffix(".tmp")
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            os.replace(temporary, record)

    return RecordingBuildPy
