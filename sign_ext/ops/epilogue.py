"""What every input-backward operator does last: add another branch's cotangent, apply bits."""

from __future__ import annotations

from torch import Tensor

from sign_ext.ops.activation import Piecewise, unpack_bits


def masked(g: Tensor, mask: Tensor | None, slope: float) -> Tensor:
    """A cotangent back through an activation, in plain torch.

    Args:
        g: cotangent of the activation's value, (N, C, H, W) or (N, C).
        mask: the activation's bit mask, or None for none.
        slope: the activation's slope.
    """
    if mask is None:
        return g
    return Piecewise(slope=slope).pull_back(g, unpack_bits(mask, g.shape))


def finish(
    value: Tensor, out: Tensor, other: Tensor | None, x_mask: Tensor | None, x_slope: float
) -> None:
    """out = pull_back(value + other, x_mask, x_slope), in plain torch.

    Args:
        value: what the operator computed.
        out: where it goes.
        other: another branch's cotangent, or None.
        x_mask: bit mask of the activation that made the input, or None.
        x_slope: that activation's slope.
    """
    if other is not None:
        value = value + other
    out.copy_(masked(value, x_mask, x_slope))
