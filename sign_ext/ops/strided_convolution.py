"""strided_convolution: dense convolutions with strides on a CPU, and their transposes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import IDENTITY, Piecewise
from sign_ext.ops.layout import Pair
from sign_ext.ops.native import fallback_reason, operator


def _fallback_reason(x: Tensor) -> str | None:
    if not (x.is_cpu and x.dtype == torch.float32):
        return "the native operator is for float32 on a CPU"
    return fallback_reason(x)


@operator(reason=_fallback_reason)
def strided_convolution(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: Piecewise = IDENTITY,
    transposed: bool = False,
    stride: Pair = (2, 2),
    padding: Pair = (0, 0),
) -> None:
    """activation(w ∗ x + bias + residual) for a convolution with strides, into `out`.

    Transposed, w ∗ x is the input-backward of such a convolution: x is the cotangent of its result
    and `out` that of its input. The native operator runs on the CPU only.

    Args:
        x: (N, C_in, H, W) float32 in channels_last.
        weight: (KH, KW, C_in, C_out), contiguous.
        out: (N, C_out, OH, OW) float32 in channels_last; positions outside x count as zero. Must
            not share memory with x or residual.
        bias: (C_out,) float32, or None.
        residual: like out, or None.
        activation: applied last.
        transposed: whether it is the transpose of a convolution.
        stride: of the convolution, vertical and horizontal.
        padding: zeros before each axis (top, left) of the convolution.

    Raises:
        RuntimeError: a tensor of the wrong type, shape or layout; it is named.

    Example:
        >>> w = torch.rand(3, 3, 8, 16)
        >>> x = torch.rand(1, 8, 6, 6).to(memory_format=torch.channels_last)
        >>> y = torch.empty(1, 16, 3, 3).to(memory_format=torch.channels_last)
        >>> strided_convolution(x, w, y, padding=(1, 1))
        >>> expected = torch.nn.functional.conv2d(x, w.permute(3, 2, 0, 1), stride=2, padding=1)
        >>> torch.allclose(y, expected, atol=1e-4)
        True
    """
    (height, width), (rows, columns) = x.shape[2:], out.shape[2:]
    (top, left), kernel = padding, weight.shape[:2]
    kernels = weight.to(x.dtype).permute(3, 2, 0, 1)
    if transposed:
        whole = F.conv_transpose2d(x, kernels.transpose(0, 1), stride=stride)
        below, right = (
            before + size - grown
            for before, size, grown in zip(padding, (rows, columns), whole.shape[2:], strict=True)
        )
        y = _resized(whole, (-left, right, -top, below))
    else:
        below, right = (
            (size - 1) * step + reach - before - given
            for size, step, reach, before, given in zip(
                (rows, columns), stride, kernel, padding, (height, width), strict=True
            )
        )
        y = F.conv2d(_resized(x, (left, right, top, below)), kernels, stride=stride)
    if bias is not None:
        y = y + bias.to(y.dtype)[:, None, None]
    if residual is not None:
        y = y + residual
    out.copy_(activation.apply(y))


def _resized(x: Tensor, amounts: tuple[int, int, int, int]) -> Tensor:
    """Zeros around an image, then crops of it: one `F.pad` cannot crop what it has yet to add."""
    padded = F.pad(x, [max(amount, 0) for amount in amounts])
    return F.pad(padded, [min(amount, 0) for amount in amounts])


@strided_convolution.register_fake
def _(
    x: Tensor, weight: Tensor, out: Tensor, bias: object, residual: Tensor | None, *_: object
) -> None:
    torch._check(
        x.shape[0] == out.shape[0], lambda: "strided_convolution: out must have x's images"
    )
    if residual is not None:
        message = "strided_convolution: residual must have out's shape"
        torch._check(residual.shape == out.shape, lambda: message)
