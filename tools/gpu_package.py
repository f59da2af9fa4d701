"""Build the package for `make gpu-check` on a machine without a GPU.

    python tools/gpu_package.py --python 3.12 --torch 2.11 --arch 9.0

This saves GPU time. Copy the folder that it prints (under build/gpu-check/, named by a digest of
the sources and the target) to the GPU machine's checkout, and the check imports it. If the folder
is missing, was built from other sources or does not import, the check builds the package itself.

It needs a CUDA toolkit of the same major version as torch's CUDA, and the headers of the target
Python. Torch is downloaded into an environment that is removed at the end; --environment keeps it
(about 5 GB) for the next time, or names one that already has torch.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import stages
from gpu_build import MARKER, build_folder, build_stages, prepare
from gpu_check import ROOT, probe

MAX_BYTES = 50 * 10**6  # limit for a folder that must be copied to another machine
BUILD_SECONDS = 3600.0
NEEDED = ("numpy", "pybind11>=2.13", "ninja", "setuptools>=77", "wheel")


def find_python(name: str) -> str:
    """Find the interpreter for a path, a command or a version ("3.12").

    Raises:
        SystemExit: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    installed = sorted(pyenv.glob("*/bin/python3"), reverse=True)
    matching = [str(file) for file in installed if f"{file.parts[-3]}.".startswith(f"{name}.")]
    for candidate in (name, f"python{name}", *matching):
        found = shutil.which(candidate)
        # pyenv puts shims on PATH also for versions that are not activated; those fail when run.
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    raise SystemExit(
        f"gpu-package: there is no Python {name!r}: neither a file, nor python{name} on PATH, nor "
        f"a version in {pyenv}. Name an interpreter's path"
    )


def has_torch(python: str, version: str) -> bool:
    """Whether an interpreter has this minor version of torch, built with CUDA."""
    facts = probe(python)
    return bool(facts.get("cuda")) and f"{facts['torch']}.".startswith(f"{version}.")


def fill(folder: Path, python: str, version: str) -> str:
    """Create an environment with torch in `folder` if needed; returns its interpreter."""
    inside = folder / "bin" / "python"
    if not inside.exists():
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
    if not has_torch(str(inside), version):
        print(f"» installing torch {version} in {folder} (about 5 GB) ...", flush=True)
        install = [str(inside), "-m", "pip", "install", "-q", f"torch=={version}.*", *NEEDED]
        subprocess.run(install, check=True)
    return str(inside)


@contextlib.contextmanager
def interpreter(name: str, version: str, environment: Path | None) -> Iterator[str]:
    """A Python with torch: the named one if it has torch, else one in a new environment."""
    python = find_python(name)
    if environment is None and has_torch(python, version):
        yield python
        return
    with contextlib.ExitStack() as stack:
        folder = environment
        if folder is None:
            made = tempfile.TemporaryDirectory(prefix="sign-ext-gpu-package-")
            folder = Path(stack.enter_context(made)) / "environment"
        yield fill(folder.absolute(), python, version)


def package(root: Path, python: str, arch: str, log: Path) -> Path:
    """Build the package for a Python and a GPU model, and import it; returns the folder.

    Args:
        root: The checkout.
        python: An interpreter with torch.
        arch: The GPU's compute capability, "9.0".
        log: File for the compilers' output.

    Raises:
        SystemExit: The package does not build, does not import or is too large to copy.
    """
    os.environ["TORCH_CUDA_ARCH_LIST"] = arch
    facts = {**probe(python), "capability": arch}
    home = build_folder(root, facts, on_gpu=True)
    with tempfile.TemporaryDirectory(prefix="sign-ext-gpu-package-") as folder:
        work = Path(folder).resolve()
        prepare(root, work, home)
        todo = build_stages(work, home, on_gpu=True, python=python, seconds=BUILD_SECONDS)
        outcomes = stages.run_all(todo, seconds=2 * BUILD_SECONDS, folder=work, log=log)
    if not stages.succeeded(outcomes):
        raise SystemExit(f"gpu-package: no package was built; {log} has the compilers' output")
    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
    if size > MAX_BYTES:
        (home / MARKER).unlink()
        raise SystemExit(f"gpu-package: {home} has {size / 1e6:.0f} MB, which is too much to copy")
    print(f"{home.relative_to(root)}: {size / 1e6:.1f} MB for {facts['abi']}, torch", end=" ")
    print(f"{facts['torch']}, CUDA {facts['cuda']}, compute capability {arch}")
    return home


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="gpu-package",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", default="3.12", help="version, command or path")
    parser.add_argument("--torch", default="2.11", help="minor version of torch")
    parser.add_argument("--arch", default="9.0", help="the GPU's compute capability")
    parser.add_argument(
        "--environment", type=Path, help="folder of an environment, created if missing and kept"
    )
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout to build")
    options = parser.parse_args()
    root = options.root.resolve()
    log = root / "build" / "gpu-package.log"
    log.parent.mkdir(exist_ok=True)
    log.write_text("", encoding="utf-8")
    with interpreter(options.python, options.torch, options.environment) as python:
        package(root, python, options.arch, log)


if __name__ == "__main__":
    main()
