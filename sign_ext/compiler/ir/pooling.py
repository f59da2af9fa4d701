"""Maximum and average pooling."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.compiler.ir.op import Op, Residue
from sign_ext.ops.layout import Pair
from sign_ext.ops.max_pool import index_shape


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool(Op):
    """activation(maximum over each window). A window's cotangent goes to its first maximum.

    Attributes:
        kernel: (KH, KW).
        stride: (vertical, horizontal).
        padding: positions on each side that never win.
        dilation: (vertical, horizontal).
        ceil_mode: whether a last, incomplete window counts.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    ceil_mode: bool = False

    kind: ClassVar[str] = "max_pool"

    @property
    def runs_by(self) -> str:
        """Our operator."""
        return "ours"

    @property
    def selects_largest(self) -> bool:
        """Of each window."""
        return True

    @property
    def masks_on_load(self) -> bool:
        """Its operator does."""
        return True

    @property
    def takes_epilogue(self) -> bool:
        """Its operator does."""
        return True

    def followed_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> MaxPool | None:
        """An activation alone."""
        return replace(self, **changes) if scale is None and shift is None else None

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The maxima; keeps their positions."""
        value, indices = F.max_pool2d(
            inputs[0],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            return_indices=True,
        )
        return value, indices

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Each cotangent at its maximum's position."""
        n = len(cotangent)
        _, height, width = self.in_shapes[0]
        flat = cotangent.new_zeros(n, self.shape[0], height * width)
        flat.scatter_add_(2, kept.flatten(2), cotangent.flatten(2))
        return (flat.reshape(n, -1, height, width),)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The winners' positions, packed as the operator writes them."""
        return (Residue("pool index", math.prod(index_shape((1, *self.shape), self.kernel))),)

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """The positions."""
        return self.kept(element_size)

    def detail(self) -> str:
        """Kernel and stride."""
        return f"{self.kernel[0]}×{self.kernel[1]}/{self.stride[0]}"


@dataclass(frozen=True, eq=False, kw_only=True)
class AveragePool(Op):
    """The mean over each window; the global mean where the kernel is the image.

    Attributes:
        kernel: (KH, KW).
        stride: (vertical, horizontal).
        padding: zeros on each side.
        ceil_mode: whether a last, incomplete window counts.
        count_include_pad: whether the divisor counts the padding.
        divisor: what to divide by instead of the window's size, or None.
    """

    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    count_include_pad: bool = True
    divisor: int | None = None

    kind: ClassVar[str] = "average_pool"

    @property
    def runs_by(self) -> str:
        """Our operator, backward."""
        return "ours"

    @property
    def takes_epilogue(self) -> bool:
        """Its operator does."""
        return True

    @property
    def averages_positions(self) -> bool:
        """Unless zeros around the image count, or it divides by something else."""
        return self.divisor is None and (self.padding == (0, 0) or not self.count_include_pad)

    @property
    def is_global(self) -> bool:
        """Whether it is the mean over the whole image."""
        whole = self.kernel == self.in_shapes[0][1:] and self.padding == (0, 0)
        return whole and self.divisor is None

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The means."""
        value = F.avg_pool2d(
            inputs[0],
            self.kernel,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor,
        )
        return value, None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Each cotangent spread over its window, by PyTorch's own operator."""
        like = cotangent.new_empty((1, 1, 1, 1)).expand(len(cotangent), *self.in_shapes[0])
        return (
            torch.ops.aten.avg_pool2d_backward(
                cotangent,
                like.contiguous(),
                self.kernel,
                self.stride,
                self.padding,
                self.ceil_mode,
                self.count_include_pad,
                self.divisor,
            ),
        )

    def detail(self) -> str:
        """Kernel and stride, or global."""
        if self.is_global:
            return "global"
        return f"{self.kernel[0]}×{self.kernel[1]}/{self.stride[0]}"


@dataclass(frozen=True, eq=False, kw_only=True)
class AdaptiveAverage(Op):
    """Adaptive average pooling whose windows differ in size."""

    kind: ClassVar[str] = "adaptive_average"

    @property
    def averages_positions(self) -> bool:
        """Means of windows."""
        return True

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The means."""
        return F.adaptive_avg_pool2d(inputs[0], (self.shape[1], self.shape[2])), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Call PyTorch's own operator."""
        like = cotangent.new_empty((1, 1, 1, 1)).expand(len(cotangent), *self.in_shapes[0])
        return (torch.ops.aten._adaptive_avg_pool2d_backward(cotangent, like.contiguous()),)
