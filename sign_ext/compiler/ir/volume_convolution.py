"""3-d convolution, and the transpose of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor
from torch.nn import functional as F
from torch.nn.grad import conv3d_input

from sign_ext.compiler.ir.dense import add_residual, affine, times
from sign_ext.compiler.ir.op import Op, count
from sign_ext.compiler.ir.pointwise import per_channel

Triple = tuple[int, int, int]


def as_volume(x: Tensor, size: Triple) -> Tensor:
    """A volume, (N, C, D, H, W), as it is stored: the same memory.

    Args:
        x: (N, C, D·H, W).
        size: (D, H, W).
    """
    return x.unflatten(2, size[:2])


def as_image(volume: Tensor) -> Tensor:
    """The inverse.

    Args:
        volume: (N, C, D, H, W).
    """
    return volume.flatten(2, 3)


@dataclass(frozen=True, eq=False, kw_only=True)
class VolumeConvolution(Op):
    """activation(weight ∗ x + bias [+ residual]) on volumes stored as (C, D·H, W).

    Attributes:
        weight: (C_out, C_in / groups, KD, KH, KW); (C_in, C_out / groups, ...) if transposed.
        size: (D, H, W) of the input.
        out_size: of the output.
        transposed: whether it is the transpose of the convolution from the output to the input.
        bias: (C_out,) or None.
        stride: along (D, H, W).
        padding: zeros on each side; positions cut off if transposed.
        dilation: along (D, H, W).
        groups: as in torch.nn.Conv3d.
    """

    weight: Tensor
    size: Triple
    out_size: Triple
    transposed: bool = False
    bias: Tensor | None = None
    stride: Triple = (1, 1, 1)
    padding: Triple = (0, 0, 0)
    dilation: Triple = (1, 1, 1)
    groups: int = 1

    kind: ClassVar[str] = "volume_convolution"

    @property
    def runs_by(self) -> str:
        """The library: it is a product."""
        return "library"

    @property
    def has_residual(self) -> bool:
        """A second input is added."""
        return len(self.inputs) > 1

    @property
    def takes_residual(self) -> bool:
        """In the pass that adds the bias."""
        return True

    def followed_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> VolumeConvolution | None:
        """BatchNorm after it, an activation, the sum with another branch."""
        weight = self._by_channel(scale) if self.transposed else times(self.weight, scale)
        return replace(self, weight=weight, bias=affine(self.bias, scale, shift), **changes)

    def absorbs(self, *, shift: bool) -> bool:
        """A scale of its input; a shift unless positions at the border see fewer of it."""
        return not shift or not (any(self.padding) or self.transposed)

    def preceded_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> VolumeConvolution:
        """Each input channel's weights scaled, and its shift summed into the bias."""
        weight, bias = self.weight.double(), self.bias
        if shift is not None:
            whole = self._by_channel(shift).sum((1, 2, 3, 4))
            bias = whole if bias is None else bias.double() + whole
        weight = times(weight, scale) if self.transposed else self._by_channel(scale)
        return replace(self, weight=weight, bias=bias, **changes)

    def _by_channel(self, scale: Tensor | None) -> Tensor:
        """The weight times one number for each channel that its second dimension stands for."""
        if scale is None:
            return self.weight
        of_group = scale.double().reshape(self.groups, 1, -1)
        each = of_group.expand(-1, len(self.weight) // self.groups, -1).flatten(0, 1)
        return self.weight * each[:, :, None, None, None]

    def without_weights(self) -> Self:
        """With the weight's shape in place of its values."""
        return replace(self, weight=self.weight.to("meta"))

    def convolve(self, volume: Tensor) -> Tensor:
        """weight ∗ volume."""
        return F.conv3d(
            volume, self.weight, None, self.stride, self.padding, self.dilation, self.groups
        )

    def transpose(self, volume: Tensor) -> Tensor:
        """The transpose of `convolve`."""
        size, channels = self.size, self.in_shapes[0][0]
        if self.transposed:
            size, channels = self.out_size, self.shape[0]
        return conv3d_input(
            (len(volume), channels, *size),
            self.weight,
            volume,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
        )

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """Convolve, add."""
        product = self.transpose if self.transposed else self.convolve
        value = as_image(product(as_volume(inputs[0], self.size)))
        if self.bias is not None:
            value = value + per_channel(self.bias, value)
        return add_residual(value, inputs), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The transpose."""
        product = self.convolve if self.transposed else self.transpose
        x = as_image(product(as_volume(cotangent, self.out_size)))
        return (x, cotangent)[: len(self.inputs)]

    def flops(self) -> int:
        """Two for each weight and position."""
        return (
            2 * self.weight[0].numel() * count(self.in_shapes[0] if self.transposed else self.shape)
        )

    def detail(self) -> str:
        """Kernel, stride, groups."""
        terms = ["×".join(map(str, self.weight.shape[2:]))]
        if self.stride != (1, 1, 1):
            terms[0] += f"/{','.join(map(str, self.stride))}"
        if self.groups > 1:
            terms.append(f"{self.groups} groups")
        return " ".join(
            ["transposed"] * self.transposed + terms + ["+ residual"] * self.has_residual
        )
