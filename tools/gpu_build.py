"""The package that the GPU check works with: built once for a state of the sources, then reused."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages import Stage

SOURCES = ("csrc", "sign_ext", "build_tools", "setup.py", "build_backend.py", "pyproject.toml")
GENERATED = ("*.so", "*.pyc", "_build_info.json")
MARKER = "finished"
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "runs", "*.egg-info", "*.so", "__pycache__", ".*_cache"
)

# The marker stands only where the package was imported as it should be, and is written last.
IMPORT = """
import pathlib, sys
home, cuda, marker = sys.argv[1], sys.argv[2] == "cuda", pathlib.Path(sys.argv[3])
marker.unlink(missing_ok=True)
import sign_ext
config = sign_ext.build_config()
assert sign_ext.__file__.startswith(home), f"imported from {sign_ext.__file__}, not from {home}"
assert not cuda or config["cuda"], f"built without CUDA: {config}"
marker.touch()
print(", ".join(f"{key} {value}" for key, value in config.items()))
"""


def build_folder(root: Path, facts: Mapping[str, Any], *, on_gpu: bool) -> Path:
    """Where the package built from these sources, for this torch and GPU, is or goes.

    Args:
        root: The checkout; the folder is under its build/.
        facts: What `gpu_check.probe` found.
        on_gpu: Whether the build is for CUDA.
    """
    digest = hashlib.sha256()
    facts_of_build = [facts.get(name) for name in ("python", "torch", "cuda", "capability")]
    asked = [os.environ.get(name) for name in ("TORCH_CUDA_ARCH_LIST", "CUDA_HOME", "CXX")]
    digest.update(repr((facts_of_build, asked, on_gpu)).encode())
    for source in SOURCES:
        place = root / source
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file() and not any(file.match(pattern) for pattern in GENERATED):
                content = hashlib.sha256(file.read_bytes()).hexdigest()
                digest.update(f"{file.relative_to(root)} {content}\n".encode())
    return root / "build" / "gpu-check" / digest.hexdigest()[:16]


def has_module(name: str) -> bool:
    """Whether the Python in use can run `python -m name`."""
    command = [sys.executable, "-m", name, "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def prepare(root: Path, work: Path, home: Path) -> None:
    """Where no finished build is, clear what an unfinished one left and copy the sources."""
    if not (home / MARKER).is_file():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        shutil.copytree(root, work / "source", ignore=NOT_COPIED)


def build_stages(work: Path, home: Path, *, on_gpu: bool) -> list[Stage]:
    """Build the package and import it, which finishes the build; a finished one is only imported.

    Args:
        work: A temporary folder, with the sources under it (`prepare`).
        home: What `build_folder` says; the package goes to site under it.
        on_gpu: Whether the build is for CUDA.
    """
    site, source, python = home / "site", work / "source", sys.executable
    environ = {"SIGN_EXT_BUILD": "cuda" if on_gpu else "none"}
    # ninja and friends stand beside the interpreter, which need not be on the PATH.
    environ["PATH"] = os.pathsep.join([str(Path(python).parent), os.environ.get("PATH", "")])
    if (home / MARKER).is_file():
        build = Stage("build", (), 0, reason=f"built before, in build/gpu-check/{home.name}")
    else:
        if has_module("pip"):
            install = [python, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
            install += ["--no-index", "--disable-pip-version-check", "-v"]
            install += ["--target", str(site), str(source)]
        else:
            script = "import os, sys; os.chdir(sys.argv[1]); sys.argv[1:] = ['build', "
            script += "'--build-lib', sys.argv[2]]; sys.path.insert(0, ''); "
            script += "exec(open('setup.py').read())"
            install = [python, "-c", script, str(source), str(site)]
        build = Stage("build", install, 200, environ)
    command = [python, "-c", IMPORT, str(site), "cuda" if on_gpu else "cpu", str(home / MARKER)]
    return [build, Stage("import", command, 60, searching(home))]


def searching(home: Path) -> dict[str, str]:
    """Variables with which Python finds the package that was built."""
    return {"PYTHONPATH": str(home / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
