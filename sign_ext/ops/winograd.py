"""winograd: 3×3 convolutions of stride 1 on a CPU with 4/9 of the multiplications."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import IDENTITY, Piecewise
from sign_ext.ops.layout import Pair
from sign_ext.ops.native import fallback_reason, operator

LEAST_CHANNELS = 16

# Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", F(2×2, 3×3).
_INPUT = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_WEIGHT = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_OUTPUT = ((1, 1, 1, 0), (0, 1, -1, -1))


def winograd_weight(weight: Tensor) -> Tensor:
    """A convolution's weight as `winograd` takes it: G g Gᵀ, computed in float64.

    Args:
        weight: (C_out, C_in, 3, 3), floating.

    Returns:
        (16, C_in, C_out), of the weight's dtype.
    """
    g = torch.tensor(_WEIGHT, dtype=torch.float64, device=weight.device)
    transformed = torch.einsum("ia,jb,kcab->ijck", g, g, weight.double())
    return transformed.reshape(16, weight.shape[1], weight.shape[0]).to(weight.dtype).contiguous()


def _fallback_reason(x: Tensor) -> str | None:
    if not (x.is_cpu and x.dtype == torch.float32):
        return "the native operator is for float32 on a CPU"
    return fallback_reason(x)


@operator(reason=_fallback_reason)
def winograd(
    x: Tensor,
    weight: Tensor,
    out: Tensor,
    *,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    activation: Piecewise = IDENTITY,
    padding: Pair = (1, 1),
) -> None:
    """activation(w ∗ x + bias + residual) by Winograd's F(2×2, 3×3), into `out`.

    Rounding errors are about twice the direct convolution's. An infinity or NaN in x gives NaN in
    the whole 2×2 tile of outputs that reads its patch. The native operator runs on the CPU only.

    Args:
        x: (N, C_in, H, W) float32 in channels_last, C_in ≥ 16.
        weight: (16, C_in, C_out) from `winograd_weight`.
        out: (N, C_out, OH, OW) float32 in channels_last, C_out ≥ 16; positions outside the
            image count as zero. Must not share memory with x or residual.
        bias: (C_out,) float32, or None.
        residual: like out, or None.
        activation: applied last.
        padding: zeros before each axis (top, left).

    Raises:
        RuntimeError: a tensor of the wrong type, shape or layout; it is named.

    Example:
        >>> w = torch.rand(16, 16, 3, 3)
        >>> x = torch.rand(1, 16, 4, 4).to(memory_format=torch.channels_last)
        >>> y = torch.empty_like(x)
        >>> winograd(x, winograd_weight(w), y)
        >>> torch.allclose(y, torch.nn.functional.conv2d(x, w, padding=1), atol=1e-4)
        True
    """
    (n, channels, height, width), (top, left) = x.shape, padding
    rows, columns = -(-out.shape[2] // 2), -(-out.shape[3] // 2)
    right, below = 2 * columns + 2 - left - width, 2 * rows + 2 - top - height
    padded = F.pad(x, (left, right, top, below))
    patches = padded.unfold(2, 4, 2).unfold(3, 4, 2)  # (N, C, rows, columns, 4, 4)
    b, a = (torch.tensor(m, dtype=x.dtype, device=x.device) for m in (_INPUT, _OUTPUT))
    patches = torch.einsum("ip,jq,ncyxpq->ijncyx", b, b, patches)
    weights = weight.to(x.dtype).reshape(4, 4, channels, -1)
    products = torch.einsum("ijncyx,ijck->ijnkyx", patches, weights)
    tiles = torch.einsum("pi,qj,ijnkyx->nkypxq", a, a, products)
    y = tiles.reshape(n, -1, 2 * rows, 2 * columns)[:, :, : out.shape[2], : out.shape[3]]
    if bias is not None:
        y = y + bias.to(y.dtype)[:, None, None]
    if residual is not None:
        y = y + residual
    out.copy_(activation.apply(y))


@winograd.register_fake
def _(
    x: Tensor, weight: Tensor, out: Tensor, bias: object, residual: Tensor | None, *_: object
) -> None:
    torch._check(x.shape[0] == out.shape[0], lambda: "winograd: out must have x's images")
    if residual is not None:
        message = "winograd: residual must have out's shape"
        torch._check(residual.shape == out.shape, lambda: message)
