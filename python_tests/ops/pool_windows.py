"""The windows that tests of pooling try, and tensors for them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import unpack_bits

Pair = tuple[int, int]
DTYPES = [torch.float32, torch.bfloat16]


class Window(NamedTuple):
    """A pooling's arguments, as torch.nn.functional takes them."""

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    @property
    def options(self) -> dict[str, Pair]:
        """What max_pool and max_pool_backward take."""
        return {
            "kernel": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
        }

    def max_pool(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """torch's own pooling: values, and each winner's number in its window."""
        value, flat = F.max_pool2d(
            x,
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=True,
        )
        height, width = value.shape[2:]
        top = torch.arange(height)[:, None] * self.stride[0] - self.padding[0]
        left = torch.arange(width) * self.stride[1] - self.padding[1]
        kh = (flat // x.shape[3] - top) // self.dilation[0]
        kw = (flat % x.shape[3] - left) // self.dilation[1]
        return value, kh * self.kernel[1] + kw

    def fits(self, height: int, width: int) -> bool:
        """Whether an image of this size has windows, and all of them see a position of it."""
        for size, k, s, p, d in zip((height, width), *self[:4], strict=True):
            room = size + 2 * p - d * (k - 1) - 1
            if room < 0:
                return False
            for start in range(-p, min(room - p + s, size), s):
                if not any(0 <= start + i * d < size for i in range(k)):
                    return False  # torch names a position outside of it there
        return True


# 2×2 tiles, 3×3 two and one apart, and what is unlike them.
WINDOWS = [
    Window((2, 2), (2, 2)),
    Window((2, 2), (2, 2), ceil_mode=True),
    Window((3, 3), (2, 2)),
    Window((3, 3), (2, 2), (1, 1)),
    Window((3, 3), (2, 2), ceil_mode=True),
    Window((3, 3), (1, 1), (1, 1)),
    Window((1, 2), (2, 1)),
    Window((5, 3), (2, 3), (2, 1)),
    Window((2, 3), (1, 2), (1, 1), (2, 3)),
    Window((9, 16), (3, 1), (4, 8)),
]


def pairs(low: int, high: int) -> st.SearchStrategy[Pair]:
    """Two numbers between these."""
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def windows(draw: st.DrawFn, dilated: bool = True) -> Window:
    """Any window that torch takes."""
    kernel = draw(pairs(1, 5))
    return Window(
        kernel,
        draw(pairs(1, 4)),
        (draw(st.integers(0, kernel[0] // 2)), draw(st.integers(0, kernel[1] // 2))),
        draw(pairs(1, 3)) if dilated else (1, 1),
        draw(st.booleans()),
    )


shapes = st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))


def innermost(tensor: Tensor) -> Tensor:
    """The same values, channels innermost."""
    return tensor.contiguous(memory_format=torch.channels_last)


def normal(
    generator: torch.Generator, shape: tuple[int, ...], dtype: torch.dtype, device: str
) -> Tensor:
    """Normal values, drawn on the CPU."""
    return innermost(torch.randn(shape, generator=generator).to(device, dtype))


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, device: str) -> Tensor:
    """A tensor to be written, in which nothing is right yet."""
    full = torch.full(shape, 123, dtype=dtype, device=device)
    return innermost(full) if len(shape) == 4 else full


def random_mask(generator: torch.Generator, shape: tuple[int, int], device: str) -> Tensor:
    """Random bits, those behind the last channel too: nothing may depend on them."""
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device)


def behind_bits(cotangent: Tensor, mask: Tensor | None, slope: float) -> Tensor:
    """A cotangent in float64 times the derivative that a bit mask stands for."""
    if mask is None:
        return cotangent
    bits = unpack_bits(mask.cpu(), cotangent.shape)
    return cotangent * torch.where(bits, 1.0, slope)
