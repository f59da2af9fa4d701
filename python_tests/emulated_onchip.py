"""onchip's kernel on the emulated device, in place of the CUDA operator."""

from __future__ import annotations

import ctypes
import functools
import math

import torch
from emulation import compiled, pointer
from torch import Tensor


@functools.cache
def library() -> ctypes.CDLL:
    """The kernel's source compiled for the host."""
    loaded = compiled("onchip")
    loaded.onchip_products.restype = loaded.onchip_loaded.restype = ctypes.c_uint64
    return loaded


class Emulated:
    """Has the arguments of `onchip_`; counts its launches."""

    def __init__(self, seed: int = 0) -> None:
        """Threads run in an order drawn from `seed`, a new one for each launch."""
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
        counts: Tensor,
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
        tensors = [p, velocity, weights, constants, features, residues, cotangent, watch, counts]
        library().onchip_emulate(
            pointer(plan),
            *map(pointer, tensors),
            ctypes.c_int64(len(p)),
            ctypes.c_int64(steps),
            *(ctypes.c_float(value) for value in (step_size, momentum, low, high)),
            ctypes.c_uint64(self._seed + self.launches),
        )
        self.launches += 1
