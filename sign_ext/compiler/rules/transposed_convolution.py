"""The rule for transposed convolution."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.transposed_convolution import TransposedConvolution
from sign_ext.compiler.lower import Builder, Ref, lowers, pair, require_constants, require_image
from sign_ext.errors import UnsupportedOperation


@lowers("conv_transpose2d.input")
def conv_transpose2d(
    builder: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Ref:
    """conv_transpose2d(x, w, b, stride, padding, output_padding, groups, dilation)."""
    require_image(x)
    require_constants(weight, bias)
    stride, extra = pair(stride), pair(output_padding)
    if any(e >= s for e, s in zip(extra, stride, strict=True)):
        # The convolution back would have one more window.
        raise UnsupportedOperation(f"output_padding {extra}, which is not below stride {stride}")
    return builder.add(
        TransposedConvolution,
        (x,),
        shape,
        weight=weight,
        bias=bias,
        stride=stride,
        padding=pair(padding),
        dilation=pair(dilation),
        groups=int(groups),
    )
