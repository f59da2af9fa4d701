"""The rules of `lower`: what each ATen operation becomes.

Each takes the builder, one image's shape of the output, and the operation's own arguments.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution, Linear, Pair
from sign_ext.compiler.errors import UnsupportedOperation
from sign_ext.compiler.lower import Builder, Ref, constant, rule
from sign_ext.compiler.ir.op import Shape
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise
from sign_ext.compiler.ir.pooling import AdaptiveAverage, AveragePool, MaxPool
from sign_ext.compiler.ir.shaping import Reshape


def pair(value: Any) -> Pair:
    """One or two numbers as two."""
    first, second = (value, value) if isinstance(value, int) else (value[0], value[-1])
    return int(first), int(second)


def need_image(ref: Any) -> None:
    """Refuse what is not a value (C, H, W)."""
    if not isinstance(ref, Ref) or len(ref.shape) != 3:
        raise UnsupportedOperation("only 2-d images (N, C, H, W) are supported here")


def need_constants(*tensors: Any) -> None:
    """Refuse weights that depend on the images."""
    if any(isinstance(tensor, Ref) for tensor in tensors):
        raise UnsupportedOperation("its weights depend on the images")


@rule("conv2d.default", "conv2d.padding", "convolution.default")
def conv2d(
    to: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    *rest: Any,
    **named: Any,
) -> Ref:
    """conv2d(x, w, b, stride, padding, dilation, groups); convolution has two more."""
    need_image(x)
    need_constants(weight, bias)
    groups = named.get("groups", rest[-1] if rest else 1)
    if len(rest) == 3 and (rest[0] or any(rest[1])):
        raise UnsupportedOperation("a transposed convolution")
    dilation = pair(dilation)
    before = after = (0, 0)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
        before = (total[0] // 2, total[1] // 2)
        after = (total[0] - before[0], total[1] - before[1])
    elif padding != "valid":
        before = after = pair(padding)
    return to.add(
        Convolution,
        (x,),
        shape,
        weight=weight,
        bias=bias,
        stride=pair(stride),
        padding=before,
        padding_behind=after,
        dilation=dilation,
        groups=int(groups),
    )


@rule("linear.default")
def linear(to: Builder, shape: Shape, x: Ref, weight: Tensor, bias: Tensor | None = None) -> Ref:
    """linear(x, w, b) on (N, F)."""
    need_constants(x if not isinstance(x, Ref) else None, weight, bias)
    if len(x.shape) != 1:
        raise UnsupportedOperation("only (N, F) is supported here")
    return to.add(Linear, (x,), shape, weight=weight, bias=bias)


@rule("batch_norm.default")
def batch_norm(
    to: Builder,
    shape: Shape,
    x: Ref,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> Ref:
    """scale = γ / √(σ² + ε), shift = β - μ · scale, in float64."""
    if training or mean is None or variance is None:
        raise UnsupportedOperation("it uses the batch's own statistics")
    scale = (variance.double() + eps).rsqrt()
    if weight is not None:
        scale = scale * weight.double()
    shift = -mean.double() * scale
    if bias is not None:
        shift = shift + bias.double()
    return to.add(Pointwise, (x,), shape, scale=scale, shift=shift)


def channel_constant(value: Any, x: Ref) -> Tensor:
    """A constant operand as (C,) float64; UnsupportedOperation unless it is one a channel."""
    tensor = constant(value)
    assert tensor is not None
    tensor = tensor.double()
    channels, dims = x.shape[0], len(x.shape) + 1
    if tensor.dim() > dims:
        raise UnsupportedOperation(f"a constant of shape {tuple(tensor.shape)}")
    shape = (1,) * (dims - tensor.dim()) + tuple(tensor.shape)
    if math.prod(shape) not in (1, shape[1]) or shape[1] not in (1, channels):
        raise UnsupportedOperation(
            f"a constant of shape {tuple(tensor.shape)}, which is not one number a channel"
        )
    return tensor.reshape(-1).expand(channels)


def scaled(to: Builder, x: Any, factor: float) -> Any:
    """factor · x, for a value or a constant."""
    if factor == 1:
        return x
    if not isinstance(x, Ref):
        return x * factor
    scale = torch.full((x.shape[0],), float(factor), dtype=torch.float64)
    return to.add(Pointwise, (x,), x.shape, scale=scale)


@rule("add.Tensor", "add.Scalar")
def add(to: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a + alpha · b."""
    b = scaled(to, b, alpha)
    if isinstance(a, Ref) and isinstance(b, Ref):
        if a.shape != b.shape:
            raise UnsupportedOperation(f"shapes {a.shape} and {b.shape} differ")
        return to.add(Pointwise, (a, b), shape)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    if x.shape != shape:
        raise UnsupportedOperation("a constant larger than the value")
    return to.add(Pointwise, (x,), shape, shift=channel_constant(other, x))


@rule("sub.Tensor", "sub.Scalar")
def subtract(to: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """a - alpha · b."""
    return add(to, shape, a, b, -alpha)


@rule("rsub.Scalar", "rsub.Tensor")
def reverse_subtract(to: Builder, shape: Shape, a: Any, b: Any, alpha: float = 1) -> Ref:
    """b - alpha · a."""
    return add(to, shape, b, a, -alpha)


@rule("neg.default")
def negative(to: Builder, shape: Shape, x: Ref) -> Ref:
    """-x."""
    result: Ref = scaled(to, x, -1)
    return result


@rule("mul.Tensor", "mul.Scalar")
def multiply(to: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a · b: two values, or a value and a constant."""
    if isinstance(a, Ref) and isinstance(b, Ref):
        if a.shape != shape:
            a, b = b, a
        spread = (shape[0], *[1] * (len(shape) - 1))
        if a.shape != shape or b.shape not in (shape, spread):
            raise UnsupportedOperation(f"shapes {a.shape} and {b.shape}")
        return to.add(Multiply, (a, b), shape)
    x, other = (a, b) if isinstance(a, Ref) else (b, a)
    if x.shape != shape:
        raise UnsupportedOperation("a constant larger than the value")
    return to.add(Pointwise, (x,), shape, scale=channel_constant(other, x))


@rule("div.Tensor", "div.Scalar")
def divide(to: Builder, shape: Shape, a: Any, b: Any) -> Ref:
    """a / b, b a constant."""
    divisor = constant(b)
    if divisor is None:
        raise UnsupportedOperation("a quotient of values")
    return multiply(to, shape, a, 1 / divisor.double())


@rule("max_pool2d.default")
def max_pool2d(
    to: Builder,
    shape: Shape,
    x: Ref,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
) -> Ref:
    """Maximum pooling."""
    need_image(x)
    if math.prod(pair(kernel)) > 256:
        raise UnsupportedOperation("a window of more than 256 positions")
    return to.add(
        MaxPool,
        (x,),
        shape,
        kernel=pair(kernel),
        stride=pair(stride or kernel),
        padding=pair(padding),
        dilation=pair(dilation),
        ceil_mode=ceil_mode,
    )


@rule("avg_pool2d.default")
def avg_pool2d(
    to: Builder,
    shape: Shape,
    x: Ref,
    kernel: Any,
    stride: Any = (),
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Ref:
    """Average pooling."""
    need_image(x)
    return to.add(
        AveragePool,
        (x,),
        shape,
        kernel=pair(kernel),
        stride=pair(stride or kernel),
        padding=pair(padding),
        ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
        divisor=divisor_override,
    )


@rule("adaptive_avg_pool2d.default")
def adaptive_avg_pool2d(to: Builder, shape: Shape, x: Ref, size: Any) -> Ref:
    """Plain average pooling where the output divides the input."""
    need_image(x)
    rows, columns = x.shape[1:]
    if shape == x.shape:
        return x
    if rows % shape[1] or columns % shape[2]:
        return to.add(AdaptiveAverage, (x,), shape)
    kernel = (rows // shape[1], columns // shape[2])
    return to.add(AveragePool, (x,), shape, kernel=kernel, stride=kernel)


@rule("adaptive_max_pool2d.default")
def adaptive_max_pool2d(to: Builder, shape: Shape, x: Ref, size: Any) -> Any:
    """Plain maximum pooling where the output divides the input; its indices are not supported."""
    need_image(x)
    rows, columns = x.shape[1:]
    to_rows, to_columns = pair(size)
    if rows % to_rows or columns % to_columns:
        raise UnsupportedOperation("windows that differ in size")
    kernel = (rows // to_rows, columns // to_columns)
    shape = (x.shape[0], to_rows, to_columns)
    return (to.add(MaxPool, (x,), shape, kernel=kernel, stride=kernel), None)


@rule("mean.dim")
def mean(to: Builder, shape: Shape, x: Ref, dim: Any, keepdim: bool = False, **_: Any) -> Ref:
    """The mean over the whole image, (2, 3)."""
    need_image(x)
    if sorted(d % 4 for d in dim) != [2, 3]:
        raise UnsupportedOperation(f"the mean over {dim}; (2, 3) is supported")
    kernel = (x.shape[1], x.shape[2])
    pooled = to.add(AveragePool, (x,), (x.shape[0], 1, 1), kernel=kernel, stride=kernel)
    return pooled if keepdim else reshaped(to, pooled, shape)


def reshaped(to: Builder, x: Ref, shape: Shape) -> Ref:
    """The same elements in another shape; nothing where it is the same."""
    return x if x.shape == shape else to.add(Reshape, (x,), shape)
