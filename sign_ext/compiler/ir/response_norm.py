"""Global response normalisation as one operation: a norm a channel, over their mean, and x."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sign_ext.compiler.ir.broadcast import Broadcast
from sign_ext.compiler.ir.op import Op, Residue, count
from sign_ext.compiler.ir.pointwise import Multiply, Pointwise
from sign_ext.compiler.ir.reduce import Reduce


@dataclass(frozen=True, eq=False, kw_only=True)
class ResponseNorm(Op):
    """x + scale · x · n + shift, n being the norm of x over positions over the channels' mean norm.

    Woo et al., "ConvNeXt V2" (2023). It goes over the image twice forward: for the norms, and for
    x · (1 + scale · n) + shift; and twice backward.

    Attributes:
        eps: added to the mean of the norms.
        scale: (C,).
        shift: (C,), or None for 0.
    """

    eps: float
    scale: Tensor
    shift: Tensor | None = None

    kind: ClassVar[str] = "response_norm"

    @property
    def runs_by(self) -> str:
        """Our operators go over the image."""
        return "ours"

    @property
    def overwrites_cotangent(self) -> bool:
        """The last passes read each element of the cotangent before they write it."""
        return True

    def linear(self, *inputs: Tensor) -> tuple[Tensor, Any]:
        """The sum; keeps x and its norms."""
        (x,) = inputs
        norms = torch.linalg.vector_norm(x, 2, (2, 3))
        mean = norms.mean(1, keepdim=True) + self.eps
        factors = 1 + norms / mean * self.scale.to(x)
        value = x * factors[:, :, None, None]
        if self.shift is not None:
            value = value + self.shift.to(x)[:, None, None]
        return value, (x, norms, mean, factors)

    def linear_vjp(self, cotangent: Tensor, kept: Any) -> tuple[Tensor, ...]:
        """Through the product, and through the norms."""
        x, norms, mean, factors = kept
        back = self.norms_cotangent((cotangent * x).sum((2, 3)), norms, mean)
        return (cotangent * factors[:, :, None, None] + x * back[:, :, None, None],)

    def norms_cotangent(self, sums: Tensor, norms: Tensor, mean: Tensor) -> Tensor:
        """The norms' cotangent over the norms: what x is multiplied by. 0 where a norm is.

        Args:
            sums: (N, C), Σ over positions of cotangent · x.
            norms: (N, C).
            mean: (N, 1), with `eps`.
        """
        ratios = sums * self.scale.to(sums) / mean
        shared = (ratios * norms).mean(1, keepdim=True) / mean
        return ((ratios - shared) / norms).masked_fill_(norms == 0, 0)

    def backward_reads(self, side: int) -> tuple[int, ...]:
        """The input."""
        return (self.inputs[0],)

    def kept(self, element_size: int) -> tuple[Residue, ...]:
        """The input and the norms."""
        whole = Residue("input", count(self.shape) * element_size)
        return (whole, *self.own_residues(element_size))

    def own_residues(self, element_size: int) -> tuple[Residue, ...]:
        """Norms, their mean and the factors, in float32 (float64)."""
        return (Residue("factors", (2 * self.shape[0] + 1) * max(element_size, 4)),)

    def workspace(self, element_size: int) -> int:
        """Vectors of channels."""
        return max(element_size, 4) * 5 * self.shape[0]

    def traffic(self, element_size: int = 4) -> int:
        """x is read twice."""
        return 3 * element_size * count(self.shape)


def fuse_response_norms(ops: list[Op], output: int) -> list[Op] | None:
    """Make one operation of norms, mean, quotient, product and sum; None where there is none.

    Args:
        ops: in an order in which they can be computed.
        output: the number of the program's value.
    """
    made_by = {op.output: op for op in ops}
    used = Counter(number for op in ops for number in op.inputs)
    used[output] += 1
    found: dict[int, ResponseNorm] = {}
    inner: set[int] = set()
    for op in ops:
        chain = _chain(op, made_by)
        if chain is None:
            continue
        product, quotient, shifted, mean, norms = chain
        once = (product, quotient, shifted, mean)
        if any(used[each.output] > 1 for each in once) or used[norms.output] > 2:
            continue
        assert isinstance(op, Pointwise)
        assert isinstance(shifted, Pointwise)
        assert op.scale is not None
        assert shifted.shift is not None
        found[op.output] = ResponseNorm(
            inputs=norms.inputs,
            output=op.output,
            in_shapes=norms.in_shapes,
            shape=op.shape,
            eps=float(shifted.shift),
            scale=op.scale,
            shift=op.shift,
        )
        inner |= {each.output for each in chain}
    if not found:
        return None
    return [found.get(op.output, op) for op in ops if op.output not in inner]


def _chain(op: Op, made_by: dict[int, Op]) -> tuple[Op, Op, Op, Op, Op] | None:
    """The product, the quotient, the mean and `eps`, the mean and the norms before a sum."""
    if not isinstance(op, Pointwise) or op.scale is None or len(op.inputs) != 2:
        return None
    if not op.activation.is_identity:
        return None
    product = made_by.get(op.inputs[0])
    if product is None or not _is_gate(product):
        return None
    x = op.inputs[1]
    quotient = made_by.get(product.inputs[1])
    if product.inputs[0] != x or not isinstance(quotient, Broadcast):
        return None
    if (quotient.function, quotient.constant, quotient.operands) != ("div", None, (0, 1)):
        return None
    norms, shifted = (made_by.get(number) for number in quotient.inputs)
    if not isinstance(shifted, Pointwise) or not shifted.is_affine or count(shifted.shape) != 1:
        return None
    mean = made_by.get(shifted.inputs[0])
    if shifted.scale is not None or shifted.shift is None or not isinstance(mean, Reduce):
        return None
    if not isinstance(norms, Reduce) or (norms.function, norms.inputs) != ("norm", (x,)):
        return None
    if (mean.function, mean.inputs) != ("mean", (norms.output,)):
        return None
    inside = (product, quotient, shifted, mean, norms)
    whole = _by_channel(norms) and mean.views[0].covers(count(norms.shape))
    plain = all(each.activation.is_identity for each in inside)
    return inside if whole and plain and count(mean.shape) == 1 else None


def _is_gate(op: Op) -> bool:
    """Whether it multiplies an image by one number a channel."""
    if isinstance(op, Multiply):
        return op.is_gate
    if not isinstance(op, Broadcast) or (op.function, op.operands) != ("mul", (0, 1)):
        return False
    image, factors = op.views
    lead = len(image.shape) - len(factors.shape)
    wide = [lead + d for d, size in enumerate(factors.shape) if size > 1]
    if op.constant is not None or lead < 0 or len(wide) != 1 or op.shape != op.in_shapes[0]:
        return False
    return op.out == image and image.covers(count(op.shape)) and image.strides[wide[0]] == 1


def _by_channel(op: Reduce) -> bool:
    """Whether it reduces all positions of an image and no channel."""
    (view,), shape = op.views, op.in_shapes[0]
    kept = [d for d, size in enumerate(view.shape) if d not in op.dims and size > 1]
    if len(shape) != 3 or len(kept) != 1 or not view.covers(count(shape)):
        return False
    return view.shape[kept[0]] == shape[0] and view.strides[kept[0]] == 1
