"""Turn the build decision into setuptools' arguments: sources, flags, commands, build record."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from setuptools import Command, Extension  # type: ignore[import-untyped]
from setuptools.command.build_py import build_py  # type: ignore[import-untyped]

from build_tools import environment
from build_tools.decide import (
    BuildError,
    Decision,
    Missing,
    Toolkit,
    decide,
    default_arches,
    parallel_jobs,
    summary,
)

ROOT = Path(__file__).resolve().parent.parent
RECORD = "_build_info.json"
# setup.py also runs for an sdist and for metadata: nothing is compiled, and torch may be missing.
BUILDING = {"build", "build_ext", "bdist_wheel", "editable_wheel", "develop", "install"}

last_summary: str | None = None  # result of the latest build, printed last by build_backend


def setup_arguments(argv: list[str]) -> dict[str, Any]:
    """setuptools.setup's arguments for this run of setup.py.

    Raises:
        SystemExit: The requested kind cannot be built; the message is one sentence.
    """
    global last_summary
    if not BUILDING.intersection(argv):
        return {}
    try:
        requested = os.environ.get("SIGN_EXT_BUILD", "").strip().lower() or "auto"
        decision, toolkit = _decide_here(requested)
        arches = _choose_arches(toolkit) if decision.kind == "cuda" and toolkit else ""
    except BuildError as error:
        raise SystemExit(f"sign_ext: {error}.") from None
    last_summary = summary(decision, arches)
    commands: dict[str, type[Command]] = {"build_py": _recording_build_py(decision)}
    if decision.kind == "none":
        return {"cmdclass": commands}
    os.environ.setdefault(
        "MAX_JOBS", str(parallel_jobs(environment.cores(), environment.free_memory()))
    )
    commands["build_ext"] = _build_extension_command()
    return {"cmdclass": commands, "ext_modules": [_extension(decision, toolkit, arches)]}


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


def _extension(decision: Decision, toolkit: Toolkit | None, arches: str) -> Extension:
    """sign_ext._C: every csrc/<operator>/*_cpu.cpp (and *_cuda.cu) and all of csrc/bindings."""
    from torch.utils import cpp_extension

    patterns = ["bindings/*.cpp", "*/*_cpu.cpp"] + ["*/*_cuda.cu"] * (decision.kind == "cuda")
    sources = sorted(
        path.relative_to(ROOT).as_posix()
        for pattern in patterns
        for path in (ROOT / "csrc").glob(pattern)
    )
    posix = sys.platform != "win32"
    # -std: torch 2.11 would use C++17. -ffile-prefix-map: error messages name source files relative
    # to the project, independent of the build folder.
    host = [
        "-std=c++20",
        "-O3",
        "-g0",
        "-fvisibility=hidden",
        "-Wall",
        "-Wextra",
        f"-ffile-prefix-map={ROOT}/=",
    ]
    host = host if posix else ["/std:c++20", "/O2"]
    device: list[str] = []
    macros: list[tuple[str, str | None]] = []
    libraries = ["torch_cpu"]
    link: list[str] = []
    if decision.kind == "cuda" and toolkit is not None:
        # USE_CUDA enables the CUDA declarations of the stable ABI.
        macros += [("SIGN_EXT_WITH_CUDA", None), ("USE_CUDA", None)]
        macros += [("SIGN_EXT_ARCHES", f'"{arches}"'), ("SIGN_EXT_TOOLKIT", f'"{toolkit.version}"')]
        libraries.append("torch_cuda")
        # -isystem folders are searched after nvcc's own: they add headers but replace none.
        extra = [
            flag for f in environment.wheel_cuda_folders("include") for flag in ("-isystem", f)
        ]
        device = ["-std=c++20", "-O3", "-lineinfo", *extra]
        link = _link_cuda_runtime(toolkit)
    return Extension(
        "sign_ext._C",
        sources,
        include_dirs=[str(ROOT / "csrc"), *_pybind11_folder(), *cpp_extension.include_paths()],
        define_macros=macros,
        library_dirs=cpp_extension.library_paths(),
        libraries=libraries,
        extra_compile_args={"cxx": host, "nvcc": device},  # type: ignore[arg-type]  # torch's form
        extra_link_args=link,
        language="c++",
    )


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
    """torch's build_ext, with a failure message that names the alternatives."""
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

    return BuildNative


def _recording_build_py(decision: Decision) -> type[Command]:
    """build_py that also writes the decision into the package, for sign_ext.build_config()."""

    class RecordingBuildPy(build_py):
        def run(self) -> None:
            super().run()
            base = ROOT if self.editable_mode else Path(self.build_lib)
            record = base / "sign_ext" / RECORD
            record.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "native": decision.kind != "none",
                "kind": decision.kind,
                "why": decision.why,
            }
            temporary = record.with_suffix(".tmp")
            temporary.write_text(json.dumps(content, indent=2) + "\n")
            os.replace(temporary, record)

    return RecordingBuildPy
