"""Build, without a GPU, the package that `make gpu-check` looks for on a machine with one.

    python tools/gpu_package.py --python 3.12 --torch 2.11 --arch 9.0

A GPU's minutes are not spent on compiling then: carry the folder that this names to the other
machine's checkout (it is under build/gpu-check/, named after the sources and what they were built
for), and the check imports it. Where the folder is absent, was built from other sources or does not
import, the check builds.

It needs a CUDA toolkit of the same major version as that torch's CUDA, and headers of that Python.
Torch comes from the network, into an environment that is removed at the end; --environment keeps
one (about 5 GB) for the next time, or names one that has torch already.
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

MOST_BYTES = 50 * 10**6  # of a folder that is to be carried
BUILD_SECONDS = 3600.0
NEEDED = ("numpy", "pybind11>=2.13", "ninja", "setuptools>=77", "wheel")


def find_python(name: str) -> str:
    """The interpreter that a path, a command or a version ("3.12") names.

    Raises:
        SystemExit: There is none.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    beside = sorted(pyenv.glob("*/bin/python3"), reverse=True)
    kept = [str(file) for file in beside if f"{file.parts[-3]}.".startswith(f"{name}.")]
    for candidate in (name, f"python{name}", *kept):
        found = shutil.which(candidate)
        # pyenv's shims stand on PATH for versions that are not chosen, too.
        if found and subprocess.run([found, "-c", ""], capture_output=True).returncode == 0:
            return found
    raise SystemExit(
        f"gpu-package: there is no Python {name!r}: neither a file, nor python{name} on PATH, nor "
        f"a version in {pyenv}. Name an interpreter's path"
    )


def has_torch(python: str, version: str) -> bool:
    """Whether a Python has this minor version of torch, built with CUDA."""
    facts = probe(python)
    return bool(facts.get("cuda")) and f"{facts['torch']}.".startswith(f"{version}.")


def fill(folder: Path, python: str, version: str) -> str:
    """Make an environment with torch in `folder`, unless one is there; returns its interpreter."""
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
    """A Python with torch: the one named if it has it, else an environment made from it."""
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
    """Build for a Python and a GPU's kind, and import there; returns the folder.

    Args:
        root: The checkout.
        python: An interpreter with torch.
        arch: The GPU's compute capability, "9.0".
        log: File for the compilers' output.

    Raises:
        SystemExit: It does not build, does not import or is too large to be carried.
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
        raise SystemExit(f"gpu-package: nothing was packed; {log} has the compilers' output")
    size = sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
    if size > MOST_BYTES:
        (home / MARKER).unlink()
        raise SystemExit(f"gpu-package: {home} has {size / 1e6:.0f} MB, which is too much to carry")
    print(f"{home.relative_to(root)}: {size / 1e6:.1f} MB for {facts['abi']}, torch", end=" ")
    print(f"{facts['torch']}, CUDA {facts['cuda']}, compute capability {arch}")
    return home


def main() -> None:
    """Read the command line, build, exit."""
    parser = argparse.ArgumentParser(
        prog="gpu-package",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--python", default="3.12", help="version, command or path")
    parser.add_argument("--torch", default="2.11", help="its minor version")
    parser.add_argument("--arch", default="9.0", help="the GPU's compute capability")
    parser.add_argument("--environment", type=Path, help="folder of an environment, made or kept")
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
