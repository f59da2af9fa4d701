"""Kernels' sources compiled for the host, on the emulated device, as functions for Python tests.

A kernel that a device would stop (a misaligned access, a barrier that part of a block misses) ends
the process with a message that names the thread.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from filelock import FileLock
from torch import Tensor

CSRC = Path(__file__).resolve().parents[1] / "csrc"
LIBRARIES = CSRC.parent / "build" / "emulated"


@functools.cache
def compiled(name: str) -> ctypes.CDLL:
    """csrc/tests/NAME_emulated.cpp as a library, compiled once for a state of csrc.

    Wherever that is: `make test-oldest` tests a copy of the checkout, and shares the libraries.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C++ compiler ({compiler[0]}) to build the emulation with")
    sources = [CSRC / "tests" / f"{name}_emulated.cpp", *sorted(CSRC.glob("testing/*.cpp"))]
    flags = ["-std=c++20", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas"]
    digest = hashlib.sha256(repr([compiler, flags]).encode())
    for file in sorted(CSRC.rglob("*")):
        if file.suffix in {".h", ".cuh", ".cpp"}:
            digest.update(f"{file.relative_to(CSRC)} ".encode() + file.read_bytes())
    LIBRARIES.mkdir(parents=True, exist_ok=True)
    library = LIBRARIES / f"{name}-{digest.hexdigest()[:16]}.so"
    # Tests run in several processes: the first one compiles, the others wait for it.
    with FileLock(LIBRARIES / f"{name}.lock"):
        if not library.exists():
            for older in LIBRARIES.glob(f"{name}-*.so"):
                older.unlink()
            unfinished = library.with_suffix(".tmp")
            command = [*compiler, *flags, f"-I{CSRC}", *map(str, sources), "-o", str(unfinished)]
            subprocess.run(command, check=True)
            unfinished.replace(library)
    return ctypes.CDLL(str(library))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    """A tensor's memory, or null."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())
