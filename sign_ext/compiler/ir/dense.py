"""Convolution and linear: the operations with weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from sign_ext.compiler.ir.op import Op, count
from sign_ext.ops.layout import Pair


def add_residual(value: Tensor, inputs: tuple[Tensor, ...]) -> Tensor:
    """The value plus the second input, where there is one."""
    return value + inputs[1] if len(inputs) > 1 else value


def times(weight: Tensor, scale: Tensor | None) -> Tensor:
    """A weight whose output channels, its first dimension, are scaled, in float64."""
    if scale is None:
        return weight
    # Type promotion: the product is float64, without a float64 copy of the weight before it.
    return weight * scale.double().reshape(-1, *[1] * (weight.dim() - 1))


def affine(bias: Tensor | None, scale: Tensor | None, shift: Tensor | None) -> Tensor | None:
    """bias · scale + shift, in float64 where it is computed."""
    if bias is not None and scale is not None:
        bias = bias.double() * scale.double()
    if shift is None:
        return bias
    return shift.double() if bias is None else bias.double() + shift.double()


def _offset(bias: Tensor | None, weight: Tensor, shift: Tensor) -> Tensor:
    """The bias of a product whose input is shifted: weight (F, I), shift (F, I)."""
    offset = (weight * shift).sum(1)
    return offset if bias is None else bias.double() + offset


@dataclass(frozen=True, eq=False, kw_only=True)
class Convolution(Op):
    """activation(weight ∗ x + bias [+ residual]), x and residual being its inputs.

    Attributes:
        weight: (C_out, C_in / groups, KH, KW).
        bias: (C_out,) or None.
        stride: (vertical, horizontal).
        padding: zeros before each axis (top, left).
        padding_end: zeros after it (bottom, right).
        dilation: (vertical, horizontal).
        groups: as in torch.nn.Conv2d.
    """

    weight: Tensor
    bias: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    padding_end: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    kind: ClassVar[str] = "convolution"

    @property
    def runs_by(self) -> str:
        """Our operator where it is depthwise."""
        return "ours" if self.is_depthwise else "library"

    @property
    def kernel(self) -> Pair:
        """(KH, KW)."""
        return (self.weight.shape[2], self.weight.shape[3])

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel has its own filter, and every window overlaps the image."""
        if not self.groups == self.weight.shape[0] == self.in_shapes[0][0] or self.groups == 1:
            return False
        axes = zip(
            self.in_shapes[0][1:],
            self.shape[1:],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            strict=True,
        )
        return all(p <= d * (k - 1) and (out - 1) * s - p < n for n, out, k, s, p, d in axes)

    @property
    def is_pointwise(self) -> bool:
        """Whether it is a matrix product over channels: 1×1, one group, stride 1, no padding."""
        plain = self.kernel == self.stride == (1, 1) and self.groups == 1
        return plain and self.padding == self.padding_end == (0, 0)

    @property
    def at_each_position(self) -> bool:
        """True for a 1×1 convolution."""
        return self.is_pointwise

    @property
    def has_residual(self) -> bool:
        """A second input is added."""
        return len(self.inputs) > 1

    @property
    def takes_residual(self) -> bool:
        """True for all but the depthwise operator."""
        return not self.is_depthwise

    def followed_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> Convolution | None:
        """BatchNorm after a convolution, an activation, the sum with another branch."""
        weight, bias = times(self.weight, scale), affine(self.bias, scale, shift)
        return replace(self, weight=weight, bias=bias, **changes)

    def absorbs(self, *, shift: bool) -> bool:
        """What is shifted must not be padded with zeros."""
        return not (shift and (any(self.padding) or any(self.padding_end)))

    def preceded_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> Convolution:
        """Each input channel's weights scaled, and its shift summed into the bias."""
        weight, bias = self.weight.double(), self.bias
        out, per_group, *_ = weight.shape
        # Output channels of one group read the same slice of input channels.
        group_of = torch.arange(out, device=weight.device) // (out // self.groups)
        channel = group_of[:, None] * per_group + torch.arange(per_group, device=weight.device)
        if shift is not None:
            bias = _offset(bias, weight.sum((2, 3)), shift.double()[channel])
        if scale is not None:
            weight = weight * scale.double()[channel][:, :, None, None]
        return replace(self, weight=weight, bias=bias, **changes)

    @property
    def takes_zeros(self) -> bool:
        """It pads with zeros itself."""
        return True

    def padded_by(self, zeros: tuple[int, int, int, int], **changes: Any) -> Convolution:
        """The same convolution with more padding."""
        left, right, top, bottom = zeros
        return replace(
            self,
            padding=(self.padding[0] + top, self.padding[1] + left),
            padding_end=(self.padding_end[0] + bottom, self.padding_end[1] + right),
            **changes,
        )

    @property
    def splits_channels(self) -> bool:
        """True for a 1×1 convolution without a residual."""
        return self.is_pointwise and not self.has_residual

    def with_channels(self, start: int, stop: int, **changes: Any) -> Convolution:
        """Some of its filters."""
        bias = None if self.bias is None else self.bias[start:stop]
        return replace(self, weight=self.weight[start:stop], bias=bias, **changes)

    @property
    def transposed_padding(self) -> Pair | None:
        """Padding of the convolution that is the input-backward; None with strides, or uneven."""
        if self.stride != (1, 1) or self.padding != self.padding_end:
            return None
        reach = [d * (k - 1) for d, k in zip(self.dilation, self.kernel, strict=True)]
        padding = (reach[0] - self.padding[0], reach[1] - self.padding[1])
        return padding if min(padding) >= 0 else None

    @property
    def may_be_left_to_library(self) -> bool:
        """True where that convolution exists; the depthwise operator is ours."""
        return not self.is_depthwise and self.transposed_padding is not None

    @property
    def takes_channels(self) -> bool:
        """True for a single group."""
        return self.groups == 1

    def taking_channels(self, index: tuple[int, ...], **changes: Any) -> Convolution:
        """Each channel's weights summed over where it is read."""
        weight = self.weight.double()
        out, _, *kernel = weight.shape
        whole = weight.new_zeros((out, changes["in_shapes"][0][0], *kernel))
        whole.index_add_(1, torch.tensor(index, device=weight.device), weight)
        return replace(self, weight=whole, **changes)

    def without_weights(self) -> Self:
        """With the weight's shape in place of its values."""
        return replace(self, weight=self.weight.to("meta"))

    @property
    def masks_on_load(self) -> bool:
        """True for the depthwise operator alone."""
        return self.is_depthwise

    @property
    def takes_epilogue(self) -> bool:
        """True for the depthwise operator."""
        return self.is_depthwise

    @property
    def can_update_image(self) -> bool:
        """True for few input channels, and windows that all begin before the image ends.

        `stem_update_` requires both. A window begins past the end where the padding is as wide as
        the kernel.
        """
        if self.groups != 1 or len(self.inputs) != 1 or self.in_shapes[0][0] > 16:
            return False
        axes = zip(self.shape[1:], self.in_shapes[0][1:], self.stride, self.padding, strict=True)
        return all((out - 1) * stride - pad < size for out, size, stride, pad in axes)

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Zero-pad, convolve, add."""
        (top, left), (bottom, right) = self.padding, self.padding_end
        x = F.pad(inputs[0], (left, right, top, bottom))
        value = F.conv2d(
            x, self.weight, self.bias, self.stride, dilation=self.dilation, groups=self.groups
        )
        return add_residual(value, inputs), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The transposed convolution, cropped to the input."""
        (top, left), (bottom, right) = self.padding, self.padding_end
        _, height, width = self.in_shapes[0]
        size = (height + top + bottom, width + left + right)
        padded = conv2d_input(
            (len(cotangent), self.in_shapes[0][0], *size),
            self.weight,
            cotangent,
            self.stride,
            0,
            self.dilation,
            self.groups,
        )
        x = padded[:, :, top : top + height, left : left + width]
        return (x, cotangent)[: len(self.inputs)]

    def flops(self) -> int:
        """Two for each weight and output position."""
        return 2 * self.weight[0].numel() * count(self.shape)

    def detail(self) -> str:
        """Kernel, stride, groups and channels."""
        size = "×".join(map(str, self.kernel))
        stride = "" if self.stride == (1, 1) else f"/{self.stride[0]}"
        terms = [f"{size}{stride}"]
        if self.is_depthwise:
            terms.append("depthwise")
        elif self.groups > 1:
            terms.append(f"{self.groups} groups")
        if self.dilation != (1, 1):
            terms.append(f"dilation {self.dilation[0]}")
        if self.has_residual:
            terms.append("+ residual")
        return " ".join(terms)


@dataclass(frozen=True, eq=False, kw_only=True)
class Linear(Op):
    """activation(W x + bias [+ residual]), x taken flat in the order (C, H, W).

    Attributes:
        weight: (F_out, F_in).
        bias: (F_out,) or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    kind: ClassVar[str] = "linear"

    @property
    def runs_by(self) -> str:
        """The library: it is a matrix product."""
        return "library"

    @property
    def takes_residual(self) -> bool:
        """It is added as the product is written."""
        return True

    def followed_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> Linear | None:
        """BatchNorm after a linear layer, an activation, the sum with another branch."""
        weight, bias = times(self.weight, scale), affine(self.bias, scale, shift)
        return replace(self, weight=weight, bias=bias, **changes)

    def absorbs(self, *, shift: bool) -> bool:
        """Any affine map of its input."""
        return True

    def preceded_by(self, scale: Tensor | None, shift: Tensor | None, **changes: Any) -> Linear:
        """Each column of the weight scaled by its channel, and its shift summed into the bias."""
        weight, bias = self.weight.double(), self.bias
        columns = torch.arange(weight.shape[1], device=weight.device)
        channel = columns // (weight.shape[1] // self.in_shapes[0][0])
        if shift is not None:
            bias = _offset(bias, weight, shift.double()[channel])
        if scale is not None:
            weight = weight * scale.double()[channel]
        return replace(self, weight=weight, bias=bias, **changes)

    @property
    def flattens_input(self) -> bool:
        """It flattens its input."""
        return True

    def without_weights(self) -> Self:
        """With the weight's shape in place of its values."""
        return replace(self, weight=self.weight.to("meta"))

    @property
    def has_residual(self) -> bool:
        """A second input is added."""
        return len(self.inputs) > 1

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Flatten, multiply, add."""
        value = F.linear(inputs[0].flatten(1), self.weight, self.bias)
        return add_residual(value, inputs), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The product with the transposed weight."""
        x = (cotangent @ self.weight).reshape(len(cotangent), *self.in_shapes[0])
        return (x, cotangent)[: len(self.inputs)]

    def flops(self) -> int:
        """Two for each weight."""
        return 2 * self.weight.numel()

    def detail(self) -> str:
        """Whether a residual is added."""
        return "+ residual" if self.has_residual else ""
