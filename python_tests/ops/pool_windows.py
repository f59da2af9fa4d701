"""The windows that tests of pooling use."""

from __future__ import annotations

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.layout import Pair

POOL_TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float64: 1e-12}


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
        """torch's own pooling: values, and each winner's position in its window."""
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
                    return False  # there torch returns a position outside the image
        return True


# 2×2 tiles, 3×3 of stride 2 and 1, and unusual ones.
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


def assert_cotangent(out: Tensor, expected: Tensor, size: float) -> None:
    """Compare with a cotangent in float64.

    Args:
        out: what the operator wrote.
        expected: float64, on the CPU.
        size: of the numbers that were summed.
    """
    tolerance = POOL_TOLERANCE[out.dtype]
    torch.testing.assert_close(
        out.cpu().double(), expected, rtol=tolerance, atol=tolerance * size, equal_nan=True
    )
