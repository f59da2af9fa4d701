"""stem_update_: the input-backward of the first convolution, added straight to the image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_ext.ops.activation import masked
from sign_ext.ops.layout import Pair
from sign_ext.ops.native import fallback_reason, operator
from sign_ext.ops.watch import check_watch, raise_watch


def _fallback_reason(p: Tensor, g: Tensor) -> str | None:
    if p.dtype != torch.float32:
        return f"p is {str(p.dtype).removeprefix('torch.')}, the native operator is float32"
    return fallback_reason(g)


@operator(reason=_fallback_reason)
def stem_update_(
    p: Tensor,
    g: Tensor,
    weight: Tensor,
    *,
    velocity: Tensor | None = None,
    mask: Tensor | None = None,
    slope: float = 0.0,
    watch: Tensor | None = None,
    counts: Tensor | None = None,
    stride: Pair = (1, 1),
    padding: Pair = (0, 0),
    dilation: Pair = (1, 1),
    step_size: float = 1.0,
    momentum: float = 0.0,
    clamp_min: float | None = None,
    clamp_max: float | None = None,
) -> None:
    """Add one step of δ to the iterate p, in place, where δ is the cotangent of a convolution's x.

    δ[n, :, y, x] sums pull_back(g, mask, slope)[n, o, i, j] · weight[a, b, :, o] over the outputs
    (i, j) whose tap (a, b) is on (y, x). Then v ← momentum · v + δ where there is a velocity, else
    v is δ, and p ← clamp(p + step_size · v) (Algorithm 1, line 4). δ is never stored. The native
    operator's result has the same bits in every call.

    Args:
        p: (N, C, H, W) in channels_last, float32 (any floating dtype and layout where the reference
            runs), pixel units (0–255). Changed in place.
        g: the cotangent of the convolution's output, (N, O, OH, OW) in channels_last, float32 or
            bfloat16.
        weight: (KH, KW, C, O) contiguous, float32. One group.
        velocity: v, p's shape, dtype and layout, or None. Changed in place.
        mask: the bit mask of the activation after the convolution, uint8, `mask_shape(g.shape)`,
            or None for no activation.
        slope: that activation's slope.
        watch: 2 contiguous values that are not negative, p's dtype, or None. They are raised to the
            largest |δ| and the largest |p + step_size · v| before the clamp; NaN stays.
        counts: 3 contiguous int32 (`sign_ext.ops.watch.new_counts`), or None. The step is counted,
            unless p is empty, and noted if it is the first after which the watch is not finite.
        stride: of the convolution, (vertical, horizontal).
        padding: of the convolution, (above, to the left); below and to the right it is what g's
            size says.
        dilation: of the convolution, (vertical, horizontal).
        step_size: factor of δ (or of v) in the update.
        momentum: factor of the old velocity; used only with a velocity.
        clamp_min: lower bound of p in pixel units, or None. NaN stays NaN.
        clamp_max: upper bound, or None. It wins where the bounds are crossed.

    Raises:
        RuntimeError: the native operator refuses an argument; the message names it.
        ValueError: the reference refuses one.

    Example:
        >>> p, g = torch.zeros(1, 1, 1, 3), torch.ones(1, 1, 1, 2)
        >>> stem_update_(p, g, torch.ones(1, 2, 1, 1), step_size=0.5)
        >>> p.flatten().tolist()
        [0.5, 1.0, 0.5]
        >>> p, watch = torch.zeros(1, 1, 1, 2), torch.zeros(2)
        >>> g, weight = torch.tensor([[[[3.0, -4.0]]]]), torch.ones(1, 1, 1, 1)
        >>> stem_update_.reference(p, g, weight, watch=watch, step_size=0.5, clamp_min=-1.0)
        >>> p.flatten().tolist(), watch.tolist()
        ([1.5, -1.0], [4.0, 2.0])
    """
    if weight.shape[2:] != (p.shape[1], g.shape[1]):
        raise ValueError(
            f"weight has shape {tuple(weight.shape)}; it must be (KH, KW, {p.shape[1]},"
            f" {g.shape[1]}), its last sizes the channels of p and of g"
        )
    if velocity is not None and velocity.shape != p.shape:
        raise ValueError(f"velocity must have p's shape {tuple(p.shape)}")
    check_watch(watch, counts)
    g = masked(g.to(p.dtype), mask, slope)
    # It begins at the padding before the image. Cut it, or fill it up with zeros, to the image.
    reached = F.conv_transpose2d(
        g, weight.to(p.dtype).permute(3, 2, 0, 1), stride=stride, dilation=dilation
    )
    below, right = (
        size + before - reach
        for size, before, reach in zip(p.shape[2:], padding, reached.shape[2:], strict=True)
    )
    delta = F.pad(reached, (-padding[1], right, -padding[0], below))
    direction = delta if velocity is None else velocity.mul_(momentum).add_(delta)
    p.add_(direction, alpha=step_size)
    if watch is not None and p.numel():
        raise_watch(watch, delta, p, counts)
    if clamp_min is not None or clamp_max is not None:
        p.clamp_(clamp_min, clamp_max)


@stem_update_.register_fake
def _(p: Tensor, g: Tensor, weight: Tensor, *_: object) -> None:
    torch._check(
        weight.shape[2] == p.shape[1] and weight.shape[3] == g.shape[1],
        lambda: "stem_update_: weight must be (KH, KW, C, O), the channels of p and of g",
    )
