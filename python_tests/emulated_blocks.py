"""inverted_residual's kernel on the emulated device, as the CUDA operators' implementation."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator
from unittest import mock

import torch
from emulation import compiled, pointer
from torch import Tensor

from sign_ext.ops import inverted_residual as operators

H100_SHARED, H100_PROCESSORS = 232_448, 132
PRECISIONS = {"float32": 0, "tf32": 1, "bfloat16": 2}


def _precision(x: Tensor, tf32: bool) -> str:
    return "bfloat16" if x.dtype == torch.bfloat16 else "tf32" if tf32 else "float32"


class Device:
    """Has the arguments of the CUDA operators; counts its launches."""

    def __init__(
        self, seed: int = 0, shared: int = H100_SHARED, processors: int = H100_PROCESSORS
    ) -> None:
        """Threads run in an order drawn from `seed`, a new one for each launch."""
        self.launches = 0
        self._seed, self._shared, self._processors = seed, shared, processors

    def forward(self, x, first, taps, second, bias, expanded, *rest) -> None:
        """torch.ops.sign_ext.inverted_residual."""
        *numbers, out, expand_mask, depthwise_mask, residual, mask = rest
        activations, (*windows, tf32) = numbers[:6], numbers[6:]
        self._launch(
            x, out, first, taps, second, bias, residual, (expand_mask, depthwise_mask, mask),
            expanded, activations, windows, _precision(x, tf32), backward=False,
        )  # fmt: skip

    def backward(self, g, first, taps, second, expanded, *rest) -> None:
        """torch.ops.sign_ext.inverted_residual_backward."""
        *windows, tf32, out, expand_mask, depthwise_mask, other = rest
        activations = (0.0,) * 6
        self._launch(
            g, out, first, taps, second, None, other, (depthwise_mask, expand_mask, None),
            expanded, activations, windows, _precision(g, tf32), backward=True,
        )  # fmt: skip

    def _launch(
        self, from_, to, first, taps, second, bias, added, bits, expanded, activations, windows,
        precision, *, backward,
    ) -> None:  # fmt: skip
        for tensor in (from_, to, added):
            assert tensor is None or tensor.is_contiguous(memory_format=torch.channels_last)
        sides = [(t.shape[2], t.shape[3], t.shape[1]) for t in (from_, to)]
        sizes = (*sides[0], expanded, *sides[1], *windows)
        images = compiled("inverted_residual").inverted_residual_emulate(
            ctypes.c_int64(len(from_)),
            (ctypes.c_int32 * len(sizes))(*sizes),
            PRECISIONS[precision],
            int(backward),
            *map(pointer, (from_, to, first, taps, second, bias, added, *bits)),
            (ctypes.c_float * 6)(*activations),
            self._shared,
            self._processors,
            ctypes.c_uint64(self._seed + self.launches),
        )
        if images == 0:
            raise RuntimeError("the block does not fit the device's shared memory")
        self.launches += 1


@contextlib.contextmanager
def emulated_blocks(device: Device) -> Iterator[Device]:
    """The blocks' operators run on CPU tensors, on the emulated device."""
    library = torch.library.Library("sign_ext", "IMPL")
    library.impl("inverted_residual", device.forward, "CPU")
    library.impl("inverted_residual_backward", device.backward, "CPU")
    try:
        with mock.patch.object(operators, "block_runs_natively", return_value=True):
            yield device
    finally:
        library._destroy()
