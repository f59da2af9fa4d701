"""onchip's kernel on the emulated device, in the place of the operator for CUDA.

A kernel that a device would stop (a misaligned access, a barrier that part of a block misses) ends
the process, and says which thread did it.
"""

from __future__ import annotations

import ctypes
import functools
import math
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

CSRC = Path(__file__).resolve().parents[1] / "csrc"


@functools.cache
def library() -> ctypes.CDLL:
    """The kernel's text compiled for the host, once in a process."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no C++ compiler ({compiler[0]}) to build the emulation with")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "libonchip_emulated.so"
        flags = ["-std=c++20", "-O2", "-shared", "-fPIC", "-Wno-unknown-pragmas", f"-I{CSRC}"]
        source = CSRC / "tests" / "onchip_emulated.cpp"
        subprocess.run([*compiler, *flags, str(source), "-o", str(file)], check=True)
        loaded = ctypes.CDLL(str(file))
        loaded.onchip_products.restype = loaded.onchip_loaded.restype = ctypes.c_uint64
        return loaded


def _pointer(tensor: Tensor | None) -> ctypes.c_void_p | None:
    return None if tensor is None else ctypes.c_void_p(tensor.data_ptr())


class Emulated:
    """Takes what `onchip_` takes; counts its launches."""

    def __init__(self, seed: int = 0) -> None:
        """Threads run in an order drawn from `seed`, another one each launch."""
        self.launches = 0
        self._seed = seed

    def __call__(
        self,
        p: Tensor,
        plan: Tensor,
        weights: Tensor,
        constants: Tensor,
        *,
        steps: int,
        watch: Tensor,
        first_bad: Tensor,
        velocity: Tensor | None = None,
        features: Tensor | None = None,
        residues: Tensor | None = None,
        cotangent: Tensor | None = None,
        step_size: float = 1.0,
        momentum: float = 0.0,
        clamp_min: float | None = None,
        clamp_max: float | None = None,
    ) -> None:
        """One launch."""
        assert plan.numel() == library().onchip_words()
        assert p.is_contiguous(memory_format=torch.channels_last)
        assert p.dtype == torch.float32
        for tensor in (features, cotangent):
            assert tensor is None or tensor.is_contiguous(memory_format=torch.channels_last)
        low = -math.inf if clamp_min is None else clamp_min
        high = math.inf if clamp_max is None else clamp_max
        tensors = [p, velocity, weights, constants, features, residues, cotangent, watch, first_bad]
        library().onchip_emulate(
            _pointer(plan),
            *map(_pointer, tensors),
            ctypes.c_int64(len(p)),
            ctypes.c_int64(steps),
            *(ctypes.c_float(value) for value in (step_size, momentum, low, high)),
            ctypes.c_uint64(self._seed + self.launches),
        )
        self.launches += 1
