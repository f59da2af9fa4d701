"""Interpolation to any size, which is a linear map of each axis."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.op import Op
from sign_ext.ops.layout import Pair

_aten = torch.ops.aten
Scales = tuple[float | None, float | None]

# Name → (value, input's cotangent), called with (x, size, [input's size,] align_corners, scales).
Forward = Callable[[Tensor, Pair, bool, Scales], Tensor]
Backward = Callable[[Tensor, Pair, tuple[int, ...], bool, Scales], Tensor]


def _aligned(name: str) -> tuple[Forward, Backward]:
    """An interpolation that may align the corners."""
    forward, backward = getattr(_aten, name), getattr(_aten, f"{name}_backward")
    return (
        lambda x, size, align, scales: forward(x, size, align, *scales),
        lambda g, size, shape, align, scales: backward(g, size, shape, align, *scales),
    )


def _nearest(name: str) -> tuple[Forward, Backward]:
    """An interpolation that copies pixels."""
    forward, backward = getattr(_aten, name), getattr(_aten, f"{name}_backward")
    return (
        lambda x, size, align, scales: forward(x, size, *scales),
        lambda g, size, shape, align, scales: backward(g, size, shape, *scales),
    )


def _antialiased(name: str) -> tuple[Forward, Backward]:
    """An interpolation that PyTorch has in float32 and float64 only on some devices."""
    forward, backward = _aligned(name)

    def widened(x: Tensor) -> Tensor:
        return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x

    return (
        lambda x, *how: forward(widened(x), *how).to(x.dtype),
        lambda g, *how: backward(widened(g), *how).to(g.dtype),
    )


FILTERS: dict[str, tuple[Forward, Backward]] = {
    "bilinear": _aligned("upsample_bilinear2d"),
    "bilinear antialias": _antialiased("_upsample_bilinear2d_aa"),
    "bicubic": _aligned("upsample_bicubic2d"),
    "bicubic antialias": _antialiased("_upsample_bicubic2d_aa"),
    "nearest": _nearest("upsample_nearest2d"),
    "nearest exact": _nearest("_upsample_nearest_exact2d"),
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Resample(Op):
    """Each channel interpolated to another size.

    Attributes:
        filter: a name in `FILTERS`, after which an image is interpolated.
        align_corners: whether the corners' pixels keep their values.
        scales: (vertical, horizontal) factors as the network gave them, or None for the ratio of
            the sizes.
    """

    filter: str
    align_corners: bool = False
    scales: Scales = (None, None)

    kind: ClassVar[str] = "resample"

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Call PyTorch's own operator."""
        forward, _ = FILTERS[self.filter]
        return forward(inputs[0], self.size, self.align_corners, self.scales), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Call PyTorch's own operator."""
        _, backward = FILTERS[self.filter]
        shape = (len(cotangent), *self.in_shapes[0])
        return (backward(cotangent, self.size, shape, self.align_corners, self.scales),)

    @property
    def averages_positions(self) -> bool:
        """Its weights sum to one."""
        return True

    @property
    def size(self) -> Pair:
        """Rows and columns of the output."""
        return (self.shape[1], self.shape[2])

    @property
    def backward_is_repeatable(self) -> bool:
        """Whether PyTorch's input-backward gives the same on CUDA every time: it may not add up."""
        return self.filter.startswith("nearest")

    def axis(self, which: int) -> Tensor:
        """The matrix that interpolates one axis, (size after, size before), in float64.

        Args:
            which: 0 for rows, 1 for columns.
        """
        before, after = self.in_shapes[0][1 + which], self.size[which]
        forward, _ = FILTERS[self.filter]
        # One pixel of each channel along one axis. The other keeps its two positions: with one,
        # PyTorch's filters with antialiasing leave the first axis as it is.
        pixels = torch.eye(before, dtype=torch.float64)[None, :, :, None].repeat(1, 1, 1, 2)
        found = forward(pixels, (after, 2), self.align_corners, (self.scales[which], None))
        return found[0, :, :, 0].t()

    def detail(self) -> str:
        """Filter and size."""
        corners = " aligned" if self.align_corners else ""
        return f"{self.filter}{corners} to {self.shape[1]}×{self.shape[2]}"
