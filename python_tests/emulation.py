"""Kernels' texts compiled for the host, on the emulated device, as functions for Python's tests.

A kernel that a device would stop (a misaligned access, a barrier that part of a block misses) ends
the process, and says which thread did it.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
from torch import Tensor

CSRC = Path(__file__).resolve().parents[1] / "csrc"


@functools.cache
def compiled(name: str) -> ctypes.CDLL:
    """csrc/tests/NAME_emulated.cpp as a library, compiled once in a process."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C++ compiler ({compiler[0]}) to build the emulation with")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"lib{name}_emulated.so"
        flags = ["-std=c++20", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{CSRC}"]
        source = CSRC / "tests" / f"{name}_emulated.cpp"
        subprocess.run([*compiler, *flags, str(source), "-o", str(file)], check=True)
        return ctypes.CDLL(str(file))


def pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    """A tensor's memory, or null."""
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())
