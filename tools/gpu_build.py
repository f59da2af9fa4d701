"""Build the package for the GPU check once per state of the sources, then reuse it.

It can also be built on another machine: gpu_package.py fills the same folder there.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import stages
from stages import Outcome, Stage

SOURCES = ("csrc", "sign_ext", "build_tools", "setup.py", "build_backend.py", "pyproject.toml")
GENERATED = ("*.so", "*.pyc", "_build_info.json")
TESTS = ("csrc/tests", "csrc/testing")  # not part of the package
MARKER = "finished"
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__", ".*_cache"
)

BUILD_SECONDS, IMPORT_SECONDS = 200.0, 120.0  # a first import may read gigabytes from a slow disk
# The marker is written last, after the package was imported from the right place. On a GPU, a
# launch also checks that the machine code matches the GPU.
IMPORT = """
import pathlib, sys
home, cuda, marker = sys.argv[1], sys.argv[2] == "cuda", pathlib.Path(sys.argv[3])
marker.unlink(missing_ok=True)
import sign_ext
config = sign_ext.build_config()
assert sign_ext.__file__.startswith(home), f"imported from {sign_ext.__file__}, not from {home}"
assert not cuda or config["cuda"], f"built without CUDA: {config}"
if cuda:
    import torch
if cuda and torch.cuda.is_available():
    p = torch.ones(2, 3, 5, 7, device="cuda")
    sign_ext.ops.sign_update_(p, p.clone(), step_size=2.0)
    assert bool((p == 3).all()), "the first launch of sign_update_ gave a wrong result"
marker.touch()
print(", ".join(f"{key} {value}" for key, value in config.items()))
"""


def compatibility_key(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """The properties that two machines must share for a package built on one to run on the other.

    Python's ABI tag (which includes the platform), torch's minor version, CUDA's major version and
    the compute capability. Patch versions are assumed compatible; if they are not, the import
    fails.

    Args:
        facts: The result of `gpu_check.probe`; a missing fact counts as empty.
    """

    def first(name: str, parts: int) -> str:
        return ".".join((facts.get(name) or "").partition("+")[0].split(".")[:parts])

    abi, capability = (facts.get(name) or "" for name in ("abi", "capability"))
    return abi, first("torch", 2), first("cuda", 1), capability


def build_folder(root: Path, facts: Mapping[str, Any], *, on_gpu: bool) -> Path:
    """The folder of the package built from these sources for this Python, torch and GPU.

    Args:
        root: The checkout; the folder is under its build/.
        facts: The result of `gpu_check.probe`.
        on_gpu: Whether the build is for CUDA.
    """
    digest = hashlib.sha256(repr((compatibility_key(facts), on_gpu)).encode())
    for source in SOURCES:
        path = root / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            name = file.relative_to(root).as_posix()
            if not file.is_file() or any(file.match(pattern) for pattern in GENERATED):
                continue
            if not name.startswith(TESTS):
                digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return root / "build" / "gpu-check" / digest.hexdigest()[:16]


def has_module(python: str, name: str) -> bool:
    """Whether a Python can run `python -m name`."""
    command = [python, "-m", name, "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def prepare(root: Path, work: Path, home: Path) -> None:
    """Unless there is a finished build, remove an unfinished one and copy the sources."""
    if not (home / MARKER).is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copytree(root, work / "source", ignore=NOT_COPIED, dirs_exist_ok=True)


def build_stages(
    work: Path,
    home: Path,
    *,
    on_gpu: bool,
    python: str = sys.executable,
    seconds: float = BUILD_SECONDS,
) -> list[Stage]:
    """The stages that build and import the package; a finished build is only imported.

    Args:
        work: A temporary folder that contains the sources (`prepare`).
        home: The result of `build_folder`; the package is installed in its subfolder site.
        on_gpu: Whether the build is for CUDA.
        python: The interpreter that the package is for.
        seconds: Time limit of the build.
    """
    site, source = home / "site", work / "source"
    environ = {"SIGN_EXT_BUILD": "cuda" if on_gpu else "none"}
    # ninja is in the interpreter's folder, which need not be on PATH.
    environ["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    if (home / MARKER).is_file():
        build = Stage("build", (), 0, reason=f"built before, in build/gpu-check/{home.name}")
    else:
        if has_module(python, "pip"):
            install = [python, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
            install += ["--no-index", "--disable-pip-version-check", "-v"]
            install += ["--target", str(site), str(source)]
        else:
            script = "import os, sys; os.chdir(sys.argv[1]); sys.argv[1:] = ['build', "
            script += "'--build-lib', sys.argv[2]]; sys.path.insert(0, ''); "
            script += "exec(open('setup.py').read())"
            install = [python, "-c", script, str(source), str(site)]
        build = Stage("build", install, seconds, environ)
    command = [python, "-c", IMPORT, str(site), "cuda" if on_gpu else "cpu", str(home / MARKER)]
    # This import may write .pyc files: compiling torch's thousands of files again takes long.
    environ = {**import_environ(home), "PYTHONDONTWRITEBYTECODE": ""}
    return [build, Stage("import", command, IMPORT_SECONDS, environ)]


def ensure_package(
    root: Path,
    work: Path,
    home: Path,
    *,
    on_gpu: bool,
    deadline: float,
    log: Path,
    seconds: float = BUILD_SECONDS,
) -> list[Outcome]:
    """Import the package built before; if there is none or the import fails, build it.

    Args:
        root: The checkout.
        work: A temporary folder.
        home: The result of `build_folder`.
        on_gpu: Whether the package is for CUDA.
        deadline: When to stop, in the clock of `time.monotonic`.
        log: File to which all output is appended.
        seconds: Time limit of a build.

    Returns:
        The outcome of each stage. A failed import of an earlier build counts as skipped, because
        the package is then built again.
    """

    def run() -> list[Outcome]:
        prepare(root, work, home)
        todo = build_stages(work, home, on_gpu=on_gpu, seconds=seconds)
        return stages.run_all(todo, seconds=deadline - time.monotonic(), folder=work, log=log)

    before = (home / MARKER).is_file()
    outcomes = run()
    if stages.succeeded(outcomes) or not before:
        return outcomes
    (home / MARKER).unlink(missing_ok=True)
    failed = replace(outcomes[-1], name="import of what was built before", status=stages.SKIPPED)
    return [failed, *run()]


def import_environ(home: Path) -> dict[str, str]:
    """Environment variables with which Python imports the package that was built."""
    return {"PYTHONPATH": str(home / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
