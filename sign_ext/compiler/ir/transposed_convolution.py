"""Transposed convolution: the input-backward of a convolution, run forward."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, add_residual, affine
from sign_ext.compiler.ir.op import Op, count
from sign_ext.compiler.ir.pointwise import per_channel
from sign_ext.ops.layout import Pair


@dataclass(frozen=True, eq=False, kw_only=True)
class TransposedConvolution(Op):
    """activation(weightᵀ ∗ x + bias [+ residual]), x and residual being its inputs.

    Attributes:
        weight: (C_in, C_out / groups, KH, KW).
        bias: (C_out,) or None.
        stride: (vertical, horizontal); the output has fewer rows beyond the last window.
        padding: rows and columns cut off on each side.
        dilation: (vertical, horizontal).
        groups: as in torch.nn.ConvTranspose2d.
    """

    weight: Tensor
    bias: Tensor | None = None
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    kind: ClassVar[str] = "transposed_convolution"

    @property
    def adjoint(self) -> Convolution:
        """The convolution from the output's shape to the input's of which it is the transpose."""
        return Convolution(
            inputs=(0,),
            output=1,
            in_shapes=(self.shape,),
            shape=self.in_shapes[0],
            weight=self.weight,
            stride=self.stride,
            padding=self.padding,
            padding_end=self.padding,
            dilation=self.dilation,
            groups=self.groups,
        )

    @property
    def runs_by(self) -> str:
        """As for its adjoint."""
        return self.adjoint.runs_by

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
    ) -> TransposedConvolution | None:
        """BatchNorm after it, an activation, the sum with another branch."""
        weight = self.weight
        if scale is not None:
            # Output channels are the second dimension, those of a group after another.
            of_group = scale.double().reshape(self.groups, 1, -1)
            each = of_group.expand(-1, len(weight) // self.groups, -1).flatten(0, 1)
            weight = weight * each[:, :, None, None]
        return replace(self, weight=weight, bias=affine(self.bias, scale, shift), **changes)

    def absorbs(self, *, shift: bool) -> bool:
        """A scale of its input; a shift reaches the output's border through fewer positions."""
        return not shift

    def preceded_by(
        self, scale: Tensor | None, shift: Tensor | None, **changes: Any
    ) -> TransposedConvolution:
        """Each input channel's weights scaled."""
        weight = self.weight
        if scale is not None:
            weight = weight * scale.double()[:, None, None, None]
        return replace(self, weight=weight, **changes)

    def without_weights(self) -> Self:
        """With the weight's shape in place of its values."""
        return replace(self, weight=self.weight.to("meta"))

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The adjoint's input-backward, plus bias and residual."""
        (value,) = self.adjoint.linear_vjp(inputs[0], None)
        if self.bias is not None:
            value = value + per_channel(self.bias, value)
        return add_residual(value, inputs), None

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """The adjoint."""
        return (self.adjoint.linear(cotangent)[0], cotangent)[: len(self.inputs)]

    def flops(self) -> int:
        """Two for each weight and input position."""
        return 2 * self.weight[0].numel() * count(self.in_shapes[0])

    def detail(self) -> str:
        """As its adjoint, and whether a residual is added."""
        return " ".join([self.adjoint.detail(), *["+ residual"] * self.has_residual])
